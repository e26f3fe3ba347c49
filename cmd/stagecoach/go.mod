module github.com/stagecoachmail/stagecoach/cmd/stagecoach

go 1.26.0

require (
	github.com/stagecoachmail/stagecoach v0.0.0
	github.com/stagecoachmail/stagecoach/services/ingress v0.0.0
	github.com/stagecoachmail/stagecoach/services/antivirus v0.0.0
	github.com/stagecoachmail/stagecoach/services/disclaimer v0.0.0
	github.com/stagecoachmail/stagecoach/services/archive v0.0.0
	github.com/stagecoachmail/stagecoach/services/signer v0.0.0
	github.com/stagecoachmail/stagecoach/services/egress v0.0.0
)

replace (
	github.com/stagecoachmail/stagecoach => ../..
	github.com/stagecoachmail/stagecoach/services/ingress => ../../services/ingress
	github.com/stagecoachmail/stagecoach/services/antivirus => ../../services/antivirus
	github.com/stagecoachmail/stagecoach/services/disclaimer => ../../services/disclaimer
	github.com/stagecoachmail/stagecoach/services/archive => ../../services/archive
	github.com/stagecoachmail/stagecoach/services/signer => ../../services/signer
	github.com/stagecoachmail/stagecoach/services/egress => ../../services/egress
)
