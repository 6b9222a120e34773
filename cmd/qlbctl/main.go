// Command qlbctl is the operator's tool of a QuorumLB group.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Env{
		Args:        os.Args[1:],
		Stdin:       os.Stdin,
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		Getenv:      os.Getenv,
		Now:         time.Now,
		Terminal:    terminal(os.Stdout),
		Interactive: terminal(os.Stdin) && terminal(os.Stderr),
	})
	stop()
	os.Exit(code)
}

// terminal tells whether a person is at the other end of f.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
