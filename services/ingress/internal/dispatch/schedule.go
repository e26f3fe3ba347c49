package dispatch

import "time"

// retries are the waits before each further attempt (RFC 5321, section 4.5.4.1); the last one repeats.
var retries = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}

// lifetime is how long a message is tried before its sender is told that it was given up.
const lifetime = 5 * 24 * time.Hour

// backoff is the wait after the given number of attempts, from 1.
func backoff(attempts int) time.Duration {
	return retries[min(max(attempts, 1), len(retries))-1]
}

// probes are the waits between two probes of what is down; the last one repeats.
var probes = [...]time.Duration{time.Second, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}

func probeWait(failed int) time.Duration {
	return probes[min(failed, len(probes)-1)]
}

// stageRetry is the wait after a stage failed: its own troubles end sooner than another host's.
func stageRetry(attempts int) time.Duration {
	return min(5*time.Second<<min(attempts-1, 8), 15*time.Minute)
}
