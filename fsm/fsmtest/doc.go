// Package fsmtest builds logs and states for tests: short makers of events, a
// log that folds what it is given, and random histories that are legal.
package fsmtest
