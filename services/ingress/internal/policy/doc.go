// Package policy decides who may send what to whom: which relay rule lets a client in, whether a recipient is ours
// and exists, which chain takes it, and whether a message goes in a circle.
//
// A Policy is live; a View is one configuration of it and does not change, but for the recipients files, which are
// read again when they change. A session keeps the View that it began a transaction with.
package policy
