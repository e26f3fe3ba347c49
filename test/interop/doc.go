// Package interop runs Stagecoach against programs that are not ours: clamd, Postfix, the clients that people use, and
// other verifiers of DKIM. They are installed by the script beside it; `make interop` does both. Everything listens on
// loopback and lives in folders of its own.
package interop
