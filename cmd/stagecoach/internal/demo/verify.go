package demo

import (
	"bytes"
	"context"
	"fmt"

	"github.com/emersion/go-msgauth/dkim"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// records are the DNS records of the installation's DKIM keys, by name.
func records(ctx context.Context, c adminv1.DkimServiceClient) (map[string]string, error) {
	r, err := c.ListDkimKeys(ctx, &adminv1.ListDkimKeysRequest{})
	if err != nil {
		return nil, fmt.Errorf("the keys of the signer: %w", err)
	}
	out := map[string]string{}
	for _, k := range r.GetKeys() {
		out[k.GetRecordName()] = k.GetRecordValue()
	}
	return out, nil
}

// verifyDKIM counts the DKIM signatures that verify against the records, as the receiver would.
func verifyDKIM(raw []byte, records map[string]string) (int, error) {
	all, err := dkim.VerifyWithOptions(bytes.NewReader(raw), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		for _, n := range []string{name, name + "."} {
			if v, ok := records[n]; ok {
				return []string{v}, nil
			}
		}
		return nil, fmt.Errorf("no record %s", name)
	}})
	if err != nil {
		return 0, err
	}
	for _, v := range all {
		if v.Err != nil {
			return 0, fmt.Errorf("DKIM of %s: %w", v.Domain, v.Err)
		}
	}
	return len(all), nil
}
