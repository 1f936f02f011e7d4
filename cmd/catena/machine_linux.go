package main

import "syscall"

// timeError is what adjtimex returns while nothing keeps the clock right.
const timeError = 5

// descriptors is how many files may be open at most.
func descriptors() (uint64, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return limit.Cur, err
}

// clockSynchronised asks the kernel; it changes nothing.
func clockSynchronised() (bool, error) {
	state, err := syscall.Adjtimex(&syscall.Timex{})
	return state != timeError, err
}
