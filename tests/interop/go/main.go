// SPDX-License-Identifier: Apache-2.0

// Command workload is an unmodified user of the official Go client. It does one thing with the Workload API
// and prints what it saw, one JSON object a line.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

func say(fields map[string]any) {
	line, _ := json.Marshal(fields)
	fmt.Println(string(line))
}

func fail(err error) {
	say(map[string]any{"error": err.Error()})
	os.Exit(1)
}

// fetch prints identities, hints and bundles, and verifies its own SVID and a JWT-SVID for two audiences.
func fetch(ctx context.Context) error {
	x509Context, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	var ids, hints []string
	for _, svid := range x509Context.SVIDs {
		if _, _, err := x509svid.Verify(svid.Certificates, x509Context.Bundles); err != nil {
			return err
		}
		ids = append(ids, svid.ID.String())
		hints = append(hints, svid.Hint)
	}
	var domains []string
	for _, bundle := range x509Context.Bundles.Bundles() {
		domains = append(domains, bundle.TrustDomain().Name())
	}
	token, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "one", ExtraAudiences: []string{"two"}})
	if err != nil {
		return err
	}
	jwtBundles, err := workloadapi.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	parsed, err := jwtsvid.ParseAndValidate(token.Marshal(), jwtBundles, []string{"two"})
	if err != nil {
		return err
	}
	validated, err := workloadapi.ValidateJWTSVID(ctx, token.Marshal(), "one")
	if err != nil {
		return err
	}
	_, witError := workloadapi.FetchWITSVID(ctx, "")
	say(map[string]any{
		"ids": ids, "hints": hints, "trust_domains": domains, "wit": status.Code(witError).String(),
		"jwt_subject": parsed.ID.String(), "jwt_audience": parsed.Audience, "validated": validated.ID.String(),
	})
	return nil
}

func authorities(bundles *x509bundle.Set) map[string]int {
	counted := map[string]int{}
	for _, bundle := range bundles.Bundles() {
		counted[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	return counted
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	svid := c.DefaultSVID()
	say(map[string]any{
		"update": svid.ID.String(), "serial": svid.Certificates[0].SerialNumber.String(),
		"authorities": authorities(c.Bundles),
	})
}

func (watcher) OnX509ContextWatchError(err error) {
	say(map[string]any{"watch_error": err.Error()})
}

// sources keeps an X509Source and a JWTSource, and prints each SVID that comes with a token validated at that time.
func sources(ctx context.Context) error {
	x509Source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer x509Source.Close()
	jwtSource, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer jwtSource.Close()
	serial := ""
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		svid, err := x509Source.GetX509SVID()
		if err != nil {
			return err
		}
		if svid.Certificates[0].SerialNumber.String() == serial {
			continue
		}
		serial = svid.Certificates[0].SerialNumber.String()
		token, err := jwtSource.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "one"})
		if err != nil {
			return err
		}
		validated, err := jwtsvid.ParseAndValidate(token.Marshal(), jwtSource, []string{"one"})
		if err != nil {
			return err
		}
		say(map[string]any{"serial": serial, "token_for": validated.ID.String()})
	}
	return nil
}

type counting struct {
	updated chan string
}

func (c counting) OnX509ContextUpdate(x *workloadapi.X509Context) {
	c.updated <- x.DefaultSVID().Certificates[0].SerialNumber.String()
}

func (c counting) OnX509ContextWatchError(err error) {
	say(map[string]any{"watch_error": err.Error()})
}

// crowd watches with clients that each have a connection of their own, and prints each SVID that all of them have.
func crowd(ctx context.Context, size int) error {
	updated := make(chan string, size)
	for range size {
		client, err := workloadapi.New(ctx)
		if err != nil {
			return err
		}
		defer client.Close()
		go client.WatchX509Context(ctx, counting{updated})
	}
	counted := map[string]int{}
	for {
		select {
		case serial := <-updated:
			counted[serial]++
			if counted[serial] == size {
				say(map[string]any{"serial": serial, "watchers": size})
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// serve answers mTLS clients of the same trust domain with their SPIFFE ID, and rotates by itself.
func serve(ctx context.Context) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain()))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	say(map[string]any{"listening": listener.Addr().String()})
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(connection)
	}
}

func answer(connection net.Conn) {
	defer connection.Close()
	secured := connection.(*tls.Conn)
	if err := secured.Handshake(); err != nil {
		say(map[string]any{"refused": err.Error()})
		return
	}
	id, err := x509svid.IDFromCert(secured.ConnectionState().PeerCertificates[0])
	if err != nil {
		return
	}
	fmt.Fprintf(secured, "%s\n", id)
}

// dial calls an mTLS server that has to have the given ID, and prints what it says.
func dial(ctx context.Context, address, id string) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	want, err := spiffeid.FromString(id)
	if err != nil {
		return err
	}
	connection, err := tls.Dial("tcp", address, tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(want)))
	if err != nil {
		return err
	}
	defer connection.Close()
	said, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	say(map[string]any{"said": string(said)})
	return nil
}

func main() {
	if len(os.Args) < 3 {
		fail(errors.New("usage: workload SECONDS fetch | watch | sources | crowd SIZE | serve | dial ADDRESS ID"))
	}
	seconds, err := strconv.ParseFloat(os.Args[1], 64)
	if err != nil {
		fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds*float64(time.Second)))
	defer cancel()
	switch os.Args[2] {
	case "fetch":
		err = fetch(ctx)
	case "watch":
		err = workloadapi.WatchX509Context(ctx, watcher{})
		if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			err = nil
		}
	case "sources":
		err = sources(ctx)
	case "crowd":
		size, wrong := strconv.Atoi(os.Args[3])
		if wrong != nil {
			fail(wrong)
		}
		err = crowd(ctx, size)
	case "serve":
		err = serve(ctx)
	case "dial":
		err = dial(ctx, os.Args[3], os.Args[4])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[2])
	}
	if err != nil {
		fail(err)
	}
}
