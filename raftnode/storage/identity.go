package storage

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Identity says who the member is that owns a data directory.
type Identity struct {
	// Name of the member in the configuration, the same for every disk it ever had.
	Name string `json:"name"`
	// ID in the Raft configuration: the name for a member that founded the
	// cluster, or name.suffix for one that joined with an empty disk.
	ID string `json:"id"`
}

// Errors of identities. They are wrapped.
var (
	// ErrBadName means that a member's name is not one DNS label.
	ErrBadName = errors.New("bad member name")
	// ErrOtherName means that the data directory belongs to a member of another name.
	ErrOtherName = errors.New("the data directory belongs to another member")
	// ErrOtherCluster means that the data directory belongs to another cluster.
	ErrOtherCluster = errors.New("the data directory belongs to another cluster")
)

// nameRE is a DNS label (RFC 1123 section 2.1): no dot, which separates the suffix of an id.
var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidateName tells whether a member may have the name: one DNS label.
func ValidateName(name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("%w: %q: 1 to 63 of a-z, 0-9 and, not first or last, -", ErrBadName, name)
	}
	return nil
}

// MemberName gives the name of the member that a Raft id belongs to.
func MemberName(id string) string {
	name, _, _ := strings.Cut(id, ".")
	return name
}

// FoundingIdentity is that of a member that founds a cluster.
func FoundingIdentity(name string) Identity { return Identity{Name: name, ID: name} }

// JoiningIdentity is that of a member that joins with an empty disk: its id has
// never been used before.
func JoiningIdentity(name string) Identity {
	suffix := base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(randomBytes(10))
	return Identity{Name: name, ID: name + "." + strings.ToLower(suffix)}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (since Go 1.24)
	return b
}

// Identity gives the directory's identity; ok is false while it has none.
func (s *Store) Identity() (id Identity, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity, s.identity.ID != ""
}

// SetIdentity gives the directory its identity, once. A second call with
// another one is an error.
func (s *Store) SetIdentity(id Identity) error {
	if err := ValidateName(id.Name); err != nil {
		return err
	}
	if MemberName(id.ID) != id.Name {
		return fmt.Errorf("%w: id %q is not one of %q", ErrBadName, id.ID, id.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.identity == id {
		return nil
	}
	if s.identity.ID != "" {
		return fmt.Errorf("%w: %s, not %s", ErrOtherName, s.identity.ID, id.ID)
	}
	data, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if err := writeFile(filepath.Join(s.dir, identityFile), append(data, '\n')); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	s.identity = id
	return nil
}

// ClusterID gives the id of the cluster that the data belongs to; ok is false
// while it belongs to none.
func (s *Store) ClusterID() (id [16]byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster, s.cluster != [16]byte{}
}

// SetClusterID notes the cluster that the data belongs to, once. A second call
// with another one fails with ErrOtherCluster.
func (s *Store) SetClusterID(id [16]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case id == [16]byte{}:
		return errors.New("the cluster id is zero")
	case s.cluster == id:
		return nil
	case s.cluster != [16]byte{}:
		return fmt.Errorf("%w: %x, not %x", ErrOtherCluster, s.cluster, id)
	}
	if err := writeFile(filepath.Join(s.dir, clusterFile), []byte(hex.EncodeToString(id[:])+"\n")); err != nil {
		return fmt.Errorf("write cluster id: %w", err)
	}
	s.cluster = id
	return nil
}

// Admitted tells whether a group has taken this id in for certain. A founder
// always has been.
func (s *Store) Admitted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admitted || s.identity.ID != "" && s.identity.ID == s.identity.Name
}

// SetAdmitted notes that the group has taken this id in. From now on a group
// that does not know it has removed it.
func (s *Store) SetAdmitted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admitted {
		return nil
	}
	if err := writeFile(filepath.Join(s.dir, admittedFile), nil); err != nil {
		return fmt.Errorf("note the admission: %w", err)
	}
	s.admitted = true
	return nil
}

// loadIdentity reads what SetIdentity and SetClusterID wrote.
func (s *Store) loadIdentity() error {
	data, err := os.ReadFile(filepath.Join(s.dir, identityFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read identity: %w", err)
	default:
		if err := json.Unmarshal(data, &s.identity); err != nil {
			return fmt.Errorf("read %s: %w", identityFile, err)
		}
		if err := ValidateName(s.identity.Name); err != nil {
			return fmt.Errorf("read %s: %w", identityFile, err)
		}
		if MemberName(s.identity.ID) != s.identity.Name {
			return fmt.Errorf("read %s: id %q does not belong to name %q", identityFile, s.identity.ID, s.identity.Name)
		}
	}
	if _, err := os.Stat(filepath.Join(s.dir, admittedFile)); err == nil {
		s.admitted = true
	}
	data, err = os.ReadFile(filepath.Join(s.dir, clusterFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read cluster id: %w", err)
	}
	id, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(id) != len(s.cluster) {
		return fmt.Errorf("read cluster id: %q is not 32 hexadecimal digits", strings.TrimSpace(string(data)))
	}
	copy(s.cluster[:], id)
	return nil
}

// writeFile replaces a file, whole or not at all, and syncs it and its directory.
func writeFile(path string, data []byte) error {
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
