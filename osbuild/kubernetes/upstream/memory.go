package main

import (
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// settle makes a program frugal once it has started. EDGE_SETTLE=SECONDS:GOGC says when to collect garbage more often, and
// to give what the start has left behind back to the kernel.
func settle(setting string) {
	first, second, _ := strings.Cut(setting, ":")
	seconds, err := strconv.Atoi(first)
	percent, other := strconv.Atoi(second)
	if err != nil || other != nil {
		return
	}
	time.AfterFunc(time.Duration(seconds)*time.Second, func() {
		debug.SetGCPercent(percent)
		debug.FreeOSMemory()
	})
}
