// Package obs is what both daemons show of themselves: structured logs, the
// Prometheus registry, and an HTTP server with /metrics, /livez and /readyz.
//
// It guarantees that logs of all parts have one form, and that the HTTP server
// never takes part in the daemon's work: it only reads, and a slow or hanging
// client of it is cut off.
//
// Server owns the goroutines of its connections and ends them with Run. The
// package must not import anything of the project but internal/version.
package obs
