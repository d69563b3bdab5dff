//go:build !race

// Package race says whether the race detector watches: everything takes many times as long then.
package race

// Enabled says whether the race detector watches.
const Enabled = false
