package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const natsBucket = "keys"

func findNATS(ctx context.Context, t Tools) (string, error) {
	const module = "github.com/nats-io/nats-server/v2"
	return t.built(ctx, "nats-server", module, module, natsVersion)
}

func startNATS(_ context.Context, s *System, file, dir string) error {
	const nodes = 3
	ports, err := freePorts(2 * nodes)
	if err != nil {
		return err
	}
	var routes, urls []string
	for i := range nodes {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[nodes+i]))
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
	}
	for i := range nodes {
		name := fmt.Sprintf("j%d", i+1)
		config := filepath.Join(dir, name+".conf")
		// An answer is on the disks of a majority only with sync_interval always.
		text := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:%d\"\njetstream { store_dir: %q, sync_interval: always }\n"+
			"cluster { name: compared, listen: \"127.0.0.1:%d\", routes: [%s] }\n",
			name, ports[i], filepath.Join(dir, name), ports[nodes+i], strings.Join(routes, ", "))
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		if err := s.run(name, dir, program{file: file, stop: syscall.SIGTERM, args: []string{"--config", config}}); err != nil {
			return err
		}
	}
	s.connect = func(ctx context.Context, node int) (Conn, error) { return connectNATS(ctx, urls[node]) }
	return nil
}

// connectNATS connects, and makes the bucket if there is none.
func connectNATS(ctx context.Context, url string) (Conn, error) {
	client, err := nats.Connect(url, nats.DontRandomize(), nats.NoReconnect())
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	stream, err := jetstream.New(client)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	bucket, err := stream.KeyValue(ctx, natsBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		bucket, err = stream.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: natsBucket, Replicas: 3, History: 1, Storage: jetstream.FileStorage,
		})
	}
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	return natsConn{client, bucket}, nil
}

type natsConn struct {
	client *nats.Conn
	bucket jetstream.KeyValue
}

func (c natsConn) Close() { c.client.Close() }

func (c natsConn) Create(ctx context.Context, key string, value []byte) ([]byte, bool, error) {
	_, err := c.bucket.Create(ctx, key, value)
	switch {
	case err == nil:
		return value, true, nil
	case !errors.Is(err, jetstream.ErrKeyExists):
		return nil, false, fmt.Errorf("create key: %w", err)
	}
	entry, err := c.bucket.Get(ctx, key)
	if err != nil {
		return nil, false, fmt.Errorf("get key: %w", err)
	}
	return entry.Value(), false, nil
}
