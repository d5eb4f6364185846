"""Times and clocks: include/uapi/linux/time.h, time_types.h, timerfd.h."""

import struct
from typing import Final

CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
CLOCK_PROCESS_CPUTIME_ID: Final = 2
CLOCK_THREAD_CPUTIME_ID: Final = 3
CLOCK_MONOTONIC_RAW: Final = 4
CLOCK_REALTIME_COARSE: Final = 5
CLOCK_MONOTONIC_COARSE: Final = 6
CLOCK_BOOTTIME: Final = 7
CLOCK_REALTIME_ALARM: Final = 8
CLOCK_BOOTTIME_ALARM: Final = 9
CLOCK_TAI: Final = 11

# How coarse the coarse clocks are: one jiffy of a kernel with 250 Hz.
COARSE_NS: Final = 4_000_000

TIMER_ABSTIME: Final = 1
TFD_TIMER_CANCEL_ON_SET: Final = 2

ITIMER_REAL: Final = 0
ITIMER_VIRTUAL: Final = 1
ITIMER_PROF: Final = 2

SIGEV_SIGNAL: Final = 0
SIGEV_NONE: Final = 1
SIGEV_THREAD: Final = 2
SIGEV_THREAD_ID: Final = 4

NSEC: Final = 1_000_000_000
USEC: Final = 1_000_000
TICKS_PER_SECOND: Final = 100  # USER_HZ: times(2), /proc
# The end of time, KTIME_MAX: later deadlines are never reached and must not overflow.
FOREVER_NS: Final = (1 << 63) - 1

TIMESPEC: Final = struct.Struct("<qq")
TIMEVAL: Final = struct.Struct("<qq")
ITIMERSPEC: Final = struct.Struct("<qqqq")  # interval, value
ITIMERVAL: Final = struct.Struct("<qqqq")
SIGEVENT: Final = struct.Struct("<Qiii44x")  # sigev_value, signo, notify, tid
