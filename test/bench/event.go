package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/test/lab"
)

// target is a node that an event happens to, QuorumLB's or keepalived's.
type target struct {
	host *lab.Host
	lan  *lab.Switch
	// daemon is what announces the addresses; all is every process there.
	daemon *lab.Process
	all    []*lab.Process
	// leave makes it give its addresses away in order; stay is the end of that.
	leave, stay func(ctx context.Context) error
	// boot gives the host power and starts what does not run.
	boot func(ctx context.Context) error
}

// whom says which nodes an event happens to.
type whom int

const (
	anOwner whom = iota + 1
	theLeader
	twoOwners
)

// event is something that happens to the owners of addresses.
type event struct {
	name, text string
	whom       whom
	strike     func(ctx context.Context, targets []target) error
	mend       func(ctx context.Context, targets []target) error
	// stays says that the address may be where it was when the event is over.
	stays bool
	// arp says that the node goes on forwarding what reaches it, so that only those
	// notice who ask for the address.
	arp bool
	// ours says that keepalived knows nothing like it.
	ours bool
	// aim is the longest that the address may be dark, from the detection time.
	aim func(d time.Duration) time.Duration
}

const (
	// frozenFor is how long what was stopped stays so after others have taken over.
	frozenFor = time.Second
	flapDown  = 100 * time.Millisecond
	flapUp    = 400 * time.Millisecond
	flaps     = 3
	// afterDetection is what a commit, the announcement and the probe may add to D.
	afterDetection = 60 * time.Millisecond
)

func withinDetection(d time.Duration) time.Duration { return d + afterDetection }

// events in the order of the table.
var events = []event{
	{
		name: "poweroff", text: "power-off of the owner", whom: anOwner,
		strike: powerOff, mend: boot, aim: withinDetection,
	}, {
		name: "poweroff-leader", text: "power-off of the owner that is Raft leader too", whom: theLeader,
		strike: powerOff, mend: boot, ours: true, aim: withinDetection,
	}, {
		name: "poweroff-two", text: "power-off of two owners of five nodes at once", whom: twoOwners,
		strike: powerOff, mend: boot, aim: withinDetection,
	}, {
		name: "kill", text: "kill -9 of the owner's speaker", whom: anOwner, arp: true,
		strike: eachTarget(func(_ context.Context, t target) error { return killDaemon(t) }),
		mend:   boot, aim: withinDetection,
	}, {
		name: "stop", text: "SIGSTOP of the owner's speaker", whom: anOwner, arp: true,
		strike: eachTarget(func(_ context.Context, t target) error { return signalTree(t.daemon, unix.SIGSTOP) }),
		mend:   eachTarget(func(_ context.Context, t target) error { return signalTree(t.daemon, unix.SIGCONT) }), aim: withinDetection,
	}, {
		name: "stop-host", text: "SIGSTOP of all processes of the owner's host", whom: anOwner,
		strike: eachTarget(func(_ context.Context, t target) error { return signalAll(t, unix.SIGSTOP) }),
		mend:   eachTarget(func(_ context.Context, t target) error { return signalAll(t, unix.SIGCONT) }), aim: withinDetection,
	}, {
		name: "carrier", text: "carrier loss on the owner's segment", whom: anOwner,
		strike: eachTarget(func(_ context.Context, t target) error { return t.lan.PortDown(t.host.Name()) }),
		mend:   eachTarget(func(_ context.Context, t target) error { return t.lan.PortUp(t.host.Name()) }),
		aim:    func(time.Duration) time.Duration { return 100 * time.Millisecond },
	}, {
		name: "flap", text: "link flap (100 ms down, 400 ms up, three times)", whom: anOwner,
		strike: eachTarget(flap), mend: boot, stays: true,
		aim: func(time.Duration) time.Duration { return flapDown + 50*time.Millisecond },
	}, {
		name: "drain", text: "drain of the owner", whom: anOwner,
		strike: eachTarget(func(ctx context.Context, t target) error { return t.leave(ctx) }),
		mend:   eachTarget(func(ctx context.Context, t target) error { return t.stay(ctx) }),
	},
}

// eachTarget does the same to every target.
func eachTarget(do func(ctx context.Context, t target) error) func(context.Context, []target) error {
	return func(ctx context.Context, targets []target) error {
		var errs []error
		for _, t := range targets {
			errs = append(errs, do(ctx, t))
		}
		return errors.Join(errs...)
	}
}

// powerOff takes the power of all targets: of their ports first, so that two die
// together.
func powerOff(_ context.Context, targets []target) error {
	var errs []error
	for _, t := range targets[1:] {
		errs = append(errs, t.lan.PortDown(t.host.Name()), signalAll(t, unix.SIGKILL))
	}
	for _, t := range targets {
		_, err := t.host.PowerOff()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

var boot = eachTarget(func(ctx context.Context, t target) error { return t.boot(ctx) })

func signalAll(t target, sig unix.Signal) error {
	var errs []error
	for _, p := range t.all {
		errs = append(errs, signalTree(p, sig))
	}
	return errors.Join(errs...)
}

// signalTree signals a process and its children: keepalived's work is done by one
// that leaves the process group, and that ends in good order when its parent dies.
func signalTree(p *lab.Process, sig unix.Signal) error {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID()))
	for _, word := range strings.Fields(string(raw)) {
		if pid, err := strconv.Atoi(word); err == nil {
			if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return p.Signal(sig)
}

// killDaemon kills the daemon as a whole, before any part of it can say good-bye.
func killDaemon(t target) error {
	return errors.Join(signalTree(t.daemon, unix.SIGSTOP), signalTree(t.daemon, unix.SIGKILL), t.daemon.Kill())
}

func flap(ctx context.Context, t target) error {
	for range flaps {
		if err := t.lan.PortDown(t.host.Name()); err != nil {
			return err
		}
		if err := lab.Wait(ctx, flapDown); err != nil {
			return err
		}
		if err := t.lan.PortUp(t.host.Name()); err != nil {
			return err
		}
		if err := lab.Wait(ctx, flapUp); err != nil {
			return err
		}
	}
	return nil
}
