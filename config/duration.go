package config

import (
	"errors"
	"strings"
	"time"
)

// Duration is a time span as it is written: "2s", "500ms".
type Duration time.Duration

// UnmarshalText reads a duration with a unit.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("must be a duration with a unit (ns, us, ms, s, m, h), such as \"750ms\" or \"24h\"")
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes it without zero units at its end.
func (d Duration) MarshalText() ([]byte, error) {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return []byte(s), nil
}
