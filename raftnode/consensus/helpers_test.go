package consensus_test

import (
	"os"
	"path/filepath"
)

func writeClusterID(dir, id string) error {
	return os.WriteFile(filepath.Join(dir, "cluster"), []byte(id+"\n"), 0o600)
}
