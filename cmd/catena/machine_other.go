//go:build !linux

package main

import "errors"

func descriptors() (uint64, error) { return 0, errors.ErrUnsupported }

func clockSynchronised() (bool, error) { return false, errors.ErrUnsupported }
