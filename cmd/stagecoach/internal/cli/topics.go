package cli

import "github.com/spf13/cobra"

// Topics are texts for `stagecoach help TOPIC`: commands that cannot be run.

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Every command ends with one of these exit codes:

  0   it is done; status: all is well
  1   it did not work for some of what was meant (the output says which), or it was not confirmed; status: there are warnings;
      try: to some recipient it would not go out
  2   it failed, or nothing was reached; status: something is critical
  64  it was used wrongly: an unknown command, flag or value

An error says on the standard error output what to do next.`,
	}
}

func connectionTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "connection",
		Short: "How the commands find the running Stagecoach",
		Long: `The commands ask a running Stagecoach: one of this machine by its socket, or one on the network. Which one, the first of these says:

  --socket PATH             the socket itself
  -c FILE                   the admin.sock in the data_dir of this configuration file
  --context NAME            a Stagecoach on the network, as "stagecoach context" has it; "local" is the one of this machine
  STAGECOACH_SOCKET         a socket, in the environment
  STAGECOACH_CONTEXT        a context, in the environment; both are refused, for nobody knows which is meant
  the current context       made so by "stagecoach context use"
  stagecoach.yaml           the admin.sock in the data_dir of this file in the current folder, if it is there
  data/admin.sock           where "stagecoach up" without a configuration has it

The socket belongs to the user under whom Stagecoach runs; he and root may use it, and may everything. What is changed is on
record with the name of who did it.

On the network it is the port of admin.address, by TLS 1.3. A context holds the address, the CA that the server's certificate
must come from, and who you are: a certificate with its key, or the file of a token. The server's certificate must be for
"admin", or for the server_name of the context. --server HOST:PORT asks at another address with everything else of the context.
What you may do there, the role in admin.people says.

All commands do the same both ways, but those that work with files of this machine: pki, check, doctor, health, up, run, nats,
send, and what is done with user --file and dkim new --keys. They take no --server and no --context.`,
	}
}

func outputTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "output",
		Short: "How the commands print: for people, for pipes, and as JSON",
		Long: `On a terminal lists are tables, cut to its width, with times such as "3 min ago" (--utc shows them in full); colours are used
unless NO_COLOR is set or TERM is dumb. In a pipe a list has a line for each entry, with tabs between its columns, without a
head, times as in RFC 3339 and sizes in bytes; what is no list (show, trace, try, status) is for people, and may change.

With --json the output is one JSON document: the answer of the API (proto/stagecoach/admin/v1) as protobuf defines its JSON,
lists under a key. 64 bit numbers are strings there, bytes are base64.

What came from outside is escaped wherever it is shown: control characters, what turns the direction of writing, and bytes
that are no UTF-8 appear as \x1b or \u202e. Only --raw and archive get give bytes as they are, and not to a terminal.`,
	}
}
