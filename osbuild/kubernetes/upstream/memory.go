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
// EDGE_SETTLE=SECONDS:GOGC says when to collect garbage more often, and to give what the start has left behind back to the
// kernel. A unit may start its program with GOGC=off and a GOMEMLIMIT, because a quarter of a start is garbage collection;
// that limit, which a loaded program could grow into, ends then too.
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
