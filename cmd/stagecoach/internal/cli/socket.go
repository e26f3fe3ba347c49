package cli

// Socket is the path of the admin socket of the running Stagecoach, found as the commands find it: by the configuration
// file that was named (empty: none was), $STAGECOACH_SOCKET, stagecoach.yaml, or the default folder.
func Socket(configFile string) (string, error) {
	a := newApp(Options{})
	a.config = configFile
	return a.socketPath()
}
