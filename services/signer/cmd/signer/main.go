// Command signer serves the stage type signer.
package main

import (
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

func main() { serve.MainWith(signer.Factory(), signer.Services) }
