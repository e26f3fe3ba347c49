module github.com/stagecoachmail/stagecoach/services/signer

go 1.26.0

require github.com/stagecoachmail/stagecoach v0.0.0

replace github.com/stagecoachmail/stagecoach => ../..
