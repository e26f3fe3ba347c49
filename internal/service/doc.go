// Package service is the skeleton that every Stagecoach process shares: its gRPC server and connections with
// mutual TLS and settings that were measured, health, and an orderly stop.
package service
