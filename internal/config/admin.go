package config

import (
	"encoding/hex"
	"regexp"
)

// Admin is the operator's API for the network; beside it there is always the socket in the data folder.
type Admin struct {
	// Address is the host:port that is listened on, for gRPC and for JSON over HTTP; empty: the socket alone.
	Address string
	// Certificate is what the port shows instead of the identity `admin` of the pki; zero: that one.
	Certificate KeyPair
	// People are those that may call over the network, in the order of the file.
	People []Person
}

// Role is what a person may do; each may what those before it may.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"   // look, but not into mail
	RoleOperator Role = "operator" // look into mail, and change what waits, routes and grants
	RoleAdmin    Role = "admin"    // everything
)

// Person may call the operator's API: with a client certificate of the pki for that name, and if TokenSHA256 is set
// also with that token.
type Person struct {
	Name string
	Role Role
	// TokenSHA256 is the SHA-256 of the token, in lower-case hex; empty: certificates only.
	TokenSHA256 string
}

type rawAdmin struct {
	Address     val[string]      `yaml:"address"`
	Certificate val[rawKeyPair]  `yaml:"certificate"`
	People      []val[rawPerson] `yaml:"people"`
}

type rawPerson struct {
	Name        val[string] `yaml:"name"`
	Role        val[string] `yaml:"role"`
	TokenSHA256 val[string] `yaml:"token_sha256"`
}

// personName is what a person is called in certificates, logs and the record: an account or a mail address.
var personName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

func (b *builder) admin() {
	raw, a := &b.raw.Admin.V, &b.c.Admin
	if v := &raw.Address; v.ok() {
		if _, _, err := hostPort(v.V, 0); err != nil {
			b.p.add(v.at, v.path, "%v", err)
		}
		a.Address = v.V
	}
	a.Certificate = b.keyPair(&raw.Certificate, "admin")
	if a.Address != "" && !b.raw.PKI.set && !raw.Certificate.set {
		b.p.add(raw.Address.at, raw.Address.path, "is reached over the network, which needs TLS: admin.certificate or pki.directory is missing")
	}
	seen := map[string]spot{}
	for i := range raw.People {
		b.person(&raw.People[i], seen)
	}
}

func (b *builder) person(raw *val[rawPerson], seen map[string]spot) {
	name, role, token := &raw.V.Name, &raw.V.Role, &raw.V.TokenSHA256
	p := Person{Name: name.V, Role: Role(b.oneOf(role, "", string(RoleViewer), string(RoleOperator), string(RoleAdmin)))}
	switch {
	case name.missing():
		b.missing(raw.at, raw.path, "name", "")
	case name.ok() && !personName.MatchString(name.V):
		b.p.add(name.at, name.path, "%q is not the name of a person: letters, digits, dot, hyphen, underscore and @, 63 at most", name.V)
	case name.ok():
		b.unique(seen, name, "person")
	}
	if role.missing() {
		b.missing(raw.at, raw.path, "role", ": viewer, operator or admin")
	}
	if token.ok() {
		if sum, err := hex.DecodeString(token.V); err != nil || len(sum) != 32 || hex.EncodeToString(sum) != token.V {
			b.p.add(token.at, token.path, "is not a SHA-256 in lower-case hex: `stagecoach admin token` makes a token, and this line for it")
		}
		p.TokenSHA256 = token.V
		if !b.raw.Admin.V.Address.set {
			b.p.warn(token.at, token.path, "a token is for the network, and admin.address is missing")
		}
	}
	b.c.Admin.People = append(b.c.Admin.People, p)
}
