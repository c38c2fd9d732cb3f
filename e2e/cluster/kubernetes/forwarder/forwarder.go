// Package forwarder carries TCP connections from one address of the host to the first target that answers.
package forwarder

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// A target on the same machine answers in microseconds; one whose link is down never does.
const dialTimeout = 500 * time.Millisecond

func NewCommand() *cobra.Command {
	var listen string
	var targets []string
	command := &cobra.Command{
		Use:   "port-forwarder",
		Short: "Carries TCP connections to the first of several targets that answers",
		RunE: func(*cobra.Command, []string) error {
			return run(listen, targets)
		},
	}
	command.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address to listen on")
	command.Flags().StringSliceVar(&targets, "targets", nil, "addresses to forward to")
	return command
}

func run(listen string, targets []string) error {
	if len(targets) == 0 {
		return fmt.Errorf("no targets given")
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	// The index of the target that answered last: a dead one is asked once, not on every connection.
	var preferred atomic.Int64
	for {
		client, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go forward(client, targets, &preferred)
	}
}

func forward(client net.Conn, targets []string, preferred *atomic.Int64) {
	defer client.Close()
	first := preferred.Load()
	for i := range targets {
		index := (int(first) + i) % len(targets)
		server, err := net.DialTimeout("tcp", targets[index], dialTimeout)
		if err != nil {
			continue
		}
		preferred.Store(int64(index))
		defer server.Close()
		join(client, server)
		return
	}
	fmt.Fprintf(os.Stderr, "no target answers: %v\n", targets)
}

// join copies both ways until both directions have ended. There is no idle timeout: a WebSocket may be silent for hours.
// A peer that vanished is noticed by TCP keep-alive, which Go switches on for both connections.
func join(client, server net.Conn) {
	var both sync.WaitGroup
	both.Add(2)
	copyHalf := func(to, from net.Conn) {
		defer both.Done()
		if _, err := io.Copy(to, from); err != nil {
			// A broken direction breaks the connection, or the other one would wait for ever.
			to.Close()
			from.Close()
			return
		}
		to.(*net.TCPConn).CloseWrite() //nolint:errcheck
	}
	go copyHalf(server, client)
	go copyHalf(client, server)
	both.Wait()
}
