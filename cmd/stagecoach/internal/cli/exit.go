package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// The exit codes of every command; `stagecoach help exit-codes` tells them.
const (
	ExitDone = 0
	// ExitPartly: it did not work for some, or there are warnings.
	ExitPartly = 1
	// ExitFailed: it failed, it is critical, or nothing could be reached.
	ExitFailed = 2
	// ExitUsage: wrong usage (EX_USAGE of sysexits).
	ExitUsage = 64
)

// exitError carries an exit code. Without err there is nothing to say that was not said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usagef is an error of who typed the command.
func usagef(format string, args ...any) error {
	return &exitError{ExitUsage, fmt.Errorf(format, args...)}
}

// partlyf says for how many it did not work.
func partlyf(format string, args ...any) error {
	return &exitError{ExitPartly, fmt.Errorf(format, args...)}
}

// ExitWith is the error of a command whose output has said everything: it gives the exit code and no more words.
func ExitWith(code int) error {
	if code == ExitDone {
		return nil
	}
	return &exitError{code: code}
}

// Code is the exit code that err stands for; that of any error of unknown kind is ExitFailed.
func Code(err error) int {
	if err == nil {
		return ExitDone
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return ExitFailed
}

// Report tells the person what went wrong, escaped, and gives the exit code.
func Report(w io.Writer, err error) int {
	if err == nil {
		return ExitDone
	}
	if e, ok := errors.AsType[*exitError](err); ok && e.err == nil {
		return e.code
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = escape(line, true)
	}
	_, _ = fmt.Fprintln(w, "stagecoach:", strings.Join(lines, "\n")) //nolint:errcheck // there is nowhere else to say it
	return Code(err)
}
