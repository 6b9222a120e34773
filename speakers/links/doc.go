// Package links says on which links a speaker may announce, and when anything
// about them changes. It learns from the kernel's messages, never by polling.
//
// A link may announce when it is an Ethernet device that the operator's patterns
// admit and that is not part of a bridge, bond or team: frames for these arrive
// at the device on top.
//
// Monitor's one goroutine is the one that calls Run. The package must not import
// anything of this project but speakers/system.
package links
