package main

import (
	"math"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// settle lets a program start without collecting garbage, and makes it frugal afterwards.
//
// A quarter of the API server's start is garbage collection, on a slow processor many seconds. So its unit starts it with
// GOGC=off and a GOMEMLIMIT, and EDGE_SETTLE=SECONDS:GOGC says when to return to a normal collector (without that
// limit, which a loaded server could grow into) and to give what the start has left behind back to the kernel.
func settle(setting string) {
	first, second, _ := strings.Cut(setting, ":")
	seconds, err := strconv.Atoi(first)
	percent, other := strconv.Atoi(second)
	if err != nil || other != nil {
		return
	}
	time.AfterFunc(time.Duration(seconds)*time.Second, func() {
		debug.SetMemoryLimit(math.MaxInt64)
		debug.SetGCPercent(percent)
		debug.FreeOSMemory()
	})
}
