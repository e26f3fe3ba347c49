// Package stage is what the author of a stage writes against: a Stage judges one message at a time and says, as
// data, what to change. Package stage/serve turns a Factory into a program; package stage/stagetest proves that a
// stage keeps the rules.
package stage
