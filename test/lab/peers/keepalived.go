package peers

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

// VRRP is one keepalived instance.
type VRRP struct {
	Interface string
	VIP       netip.Prefix
	// Priority decides who is master: 1 to 254, the highest.
	Priority int
	// Advert is the interval between advertisements, at least 10 ms; keepalived
	// takes a node for dead after three of them and the skew time.
	Advert time.Duration
}

// HasKeepalived is nil when keepalived is installed.
func HasKeepalived() error {
	_, err := find("keepalived", "keepalived")
	return err
}

// StartKeepalived runs keepalived on the host. dir is for its files.
func StartKeepalived(h *lab.Host, dir string, v VRRP) (*lab.Process, error) {
	path, err := find("keepalived", "keepalived")
	if err != nil {
		return nil, err
	}
	base := filepath.Join(dir, h.Name()+"-keepalived")
	conf := fmt.Sprintf(`global_defs {
    router_id %s
    vrrp_version 3
}
vrrp_instance lab {
    state BACKUP
    interface %s
    virtual_router_id 51
    priority %d
    advert_int %s
    virtual_ipaddress {
        %s
    }
}
`, h.Name(), v.Interface, v.Priority, strconv.FormatFloat(v.Advert.Seconds(), 'f', -1, 64), v.VIP)
	// What a killed instance left there would be taken for a living one.
	for _, pid := range []string{base + ".pid", base + ".vrrp.pid"} {
		if err := os.Remove(pid); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if err := os.WriteFile(base+".conf", []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return h.Start("keepalived", path, "--dont-fork", "--log-console", "--vrrp",
		"--use-file", base+".conf", "--pid", base+".pid", "--vrrp_pid", base+".vrrp.pid")
}
