// A go-libp2p node for the tests of tests/interop/go.rs.
//
// Commands are JSON lines on standard input, {"id", "do", ...}; the answer to each is a JSON line on
// standard output, {"id", "ok"} or {"id", "error"}. Asynchronous events are lines of the form
// {"event", "seconds", ...}, with the seconds since the start. Assertions are in the Rust tests.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	ma "github.com/multiformats/go-multiaddr"
)

const echoProtocol = "/descord-relay/test"

// The options of a node, as JSON in the first argument. All others are the library's defaults.
type options struct {
	// Addresses of the relays, with their peer ids.
	Relays []string `json:"relays"`
	// How auto-relay discovers them: "static", "source", or "" for no auto-relay.
	AutoRelay string `json:"autorelay"`
	// Addresses to listen on instead of the defaults.
	Listen []string `json:"listen"`
	// Enables AutoNAT v2.
	AutoNATv2 bool `json:"autonat_v2"`
	// Runs the library's server of AutoNAT v1, on a node that is public without a test.
	AutoNATServer bool `json:"autonat_server"`
	// Seconds for which auto-relay avoids a relay that failed; 0 is the default.
	Backoff int `json:"backoff"`
}

var (
	start  = time.Now()
	output sync.Mutex
)

func say(message map[string]any) {
	output.Lock()
	defer output.Unlock()
	line, err := json.Marshal(message)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func emit(name string, fields map[string]any) {
	fields["event"] = name
	fields["seconds"] = time.Since(start).Seconds()
	say(fields)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var opts options
	if len(os.Args) > 1 {
		if err := json.Unmarshal([]byte(os.Args[1]), &opts); err != nil {
			return err
		}
	}
	relays, err := parse(opts.Relays)
	if err != nil {
		return err
	}
	node, err := libp2p.New(settings(opts, relays)...)
	if err != nil {
		return err
	}
	defer node.Close()
	node.SetStreamHandler(echoProtocol, func(stream network.Stream) {
		defer stream.Close()
		_, _ = io.Copy(stream, stream)
	})
	if err := watch(node); err != nil {
		return err
	}
	emit("ready", map[string]any{"peer": node.ID().String(), "listen": texts(node.Network().ListenAddresses())})
	for _, relay := range relays {
		go func() {
			if err := node.Connect(context.Background(), relay); err != nil {
				emit("connect failed", map[string]any{"error": err.Error()})
			}
		}()
	}
	return serve(node)
}

func parse(addresses []string) ([]peer.AddrInfo, error) {
	var parsed []ma.Multiaddr
	for _, text := range addresses {
		address, err := ma.NewMultiaddr(text)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, address)
	}
	return peer.AddrInfosFromP2pAddrs(parsed...)
}

func settings(opts options, relays []peer.AddrInfo) []libp2p.Option {
	var settings []libp2p.Option
	var relay []autorelay.Option
	if opts.Backoff > 0 {
		relay = append(relay, autorelay.WithBackoff(time.Duration(opts.Backoff)*time.Second))
	}
	switch opts.AutoRelay {
	case "static":
		settings = append(settings, libp2p.EnableAutoRelayWithStaticRelays(relays, relay...))
	case "source":
		source := func(_ context.Context, number int) <-chan peer.AddrInfo {
			found := make(chan peer.AddrInfo, len(relays))
			defer close(found)
			for _, relay := range relays[:min(number, len(relays))] {
				found <- relay
			}
			return found
		}
		relay = append(relay, autorelay.WithMinCandidates(1), autorelay.WithMinInterval(time.Second))
		settings = append(settings, libp2p.EnableAutoRelayWithPeerSource(source, relay...))
	}
	if len(opts.Listen) > 0 {
		settings = append(settings, libp2p.ListenAddrStrings(opts.Listen...))
	}
	if opts.AutoNATv2 {
		settings = append(settings, libp2p.EnableAutoNATv2())
	}
	if opts.AutoNATServer {
		settings = append(settings, libp2p.EnableNATService(), libp2p.ForceReachabilityPublic())
	}
	return settings
}

// Emits changes of reachability and of addresses.
func watch(node host.Host) error {
	events, err := node.EventBus().Subscribe([]any{
		new(event.EvtLocalReachabilityChanged),
		new(event.EvtLocalAddressesUpdated),
		new(event.EvtHostReachableAddrsChanged),
	})
	if err != nil {
		return err
	}
	go func() {
		for happened := range events.Out() {
			switch happened := happened.(type) {
			case event.EvtLocalReachabilityChanged:
				emit("reachability", map[string]any{"is": happened.Reachability.String()})
			case event.EvtLocalAddressesUpdated:
				var addresses []string
				for _, current := range happened.Current {
					addresses = append(addresses, current.Address.String())
				}
				emit("addresses", map[string]any{"are": addresses})
			case event.EvtHostReachableAddrsChanged:
				emit("reachable addresses", map[string]any{
					"reachable":   texts(happened.Reachable),
					"unreachable": texts(happened.Unreachable),
					"unknown":     texts(happened.Unknown),
				})
			}
		}
	}()
	return nil
}

func texts(addresses []ma.Multiaddr) []string {
	texts := []string{}
	for _, address := range addresses {
		texts = append(texts, address.String())
	}
	return texts
}

type command struct {
	ID      uint64 `json:"id"`
	Do      string `json:"do"`
	Address string `json:"address"`
	Bytes   int    `json:"bytes"`
}

// Runs commands until the input ends.
func serve(node host.Host) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var cmd command
		if err := json.Unmarshal(lines.Bytes(), &cmd); err != nil {
			return err
		}
		go func() {
			answer, err := perform(node, cmd)
			if err != nil {
				say(map[string]any{"id": cmd.ID, "error": err.Error()})
				return
			}
			say(map[string]any{"id": cmd.ID, "ok": answer})
		}()
	}
	return lines.Err()
}

func perform(node host.Host, cmd command) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	switch cmd.Do {
	case "addresses":
		return texts(node.Addrs()), nil
	case "connect":
		infos, err := parse([]string{cmd.Address})
		if err != nil {
			return nil, err
		}
		return nil, node.Connect(ctx, infos[0])
	case "echo":
		return echo(ctx, node, cmd)
	default:
		return nil, fmt.Errorf("no command %q", cmd.Do)
	}
}

// Dials an address, sends bytes, and verifies the echo.
func echo(ctx context.Context, node host.Host, cmd command) (any, error) {
	infos, err := parse([]string{cmd.Address})
	if err != nil {
		return nil, err
	}
	if err := node.Connect(ctx, infos[0]); err != nil {
		return nil, err
	}
	ctx = network.WithAllowLimitedConn(ctx, "test")
	stream, err := node.NewStream(ctx, infos[0].ID, echoProtocol)
	if err != nil {
		return nil, err
	}
	defer stream.Reset()
	sent := make([]byte, cmd.Bytes)
	if _, err := rand.Read(sent); err != nil {
		return nil, err
	}
	go func() {
		_, _ = stream.Write(sent)
		_ = stream.CloseWrite()
	}()
	received, err := io.ReadAll(stream)
	if err != nil {
		return nil, err
	}
	if string(received) != string(sent) {
		return nil, errors.New("the echo differs")
	}
	connection := stream.Conn()
	return map[string]any{
		"address": connection.RemoteMultiaddr().String(),
		"limited": connection.Stat().Limited,
	}, nil
}
