//go:build race

package speakers

func init() { raceDetector = true }
