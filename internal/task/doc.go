// Package task gives everything that runs for long the same three methods, and
// runs several of them as one.
//
// A Group owns the goroutine of each of its tasks: it starts them together,
// cancels all when one fails, and returns only when the last has ended. So a
// goroutine lives in exactly one group, and a process ends when its outermost
// group does. Group is itself a Task: one errgroup per level.
//
// The package must not import anything of the project.
package task
