package host

import "github.com/quorumlb/quorumlb/speakers/system"

// Kernel is the System of a network namespace.
type Kernel struct{ *system.Loopback }

// OpenKernel opens the System of the network namespace of the calling thread.
// Its sysctls are those of the namespace of whichever thread reads them.
func OpenKernel() (Kernel, error) {
	lo, err := system.OpenLoopback()
	return Kernel{lo}, err
}

// Sysctl reads a kernel setting.
func (Kernel) Sysctl(key string) (string, error) { return system.ReadSysctl(key) }

// SetSysctl writes a kernel setting.
func (Kernel) SetSysctl(key, value string) error { return system.WriteSysctl(key, value) }
