// Package interop runs Stagecoach against programs that are not ours: the clients that people send with, mail servers,
// clamd, other verifiers of signatures, fail2ban. They are installed by the script beside it; `make interop` does both.
// Everything listens on loopback and lives in folders of its own. README.md says what is run against what.
package interop
