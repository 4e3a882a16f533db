package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

const (
	postgresTable = `CREATE TABLE IF NOT EXISTS idempotency_keys (
		idempotency_key UUID PRIMARY KEY, response_data JSONB, created_at TIMESTAMP DEFAULT NOW())`
	postgresInsert = `INSERT INTO idempotency_keys (idempotency_key, response_data) VALUES ($1, $2)
		ON CONFLICT DO NOTHING RETURNING response_data`
	postgresSelect = `SELECT response_data FROM idempotency_keys WHERE idempotency_key = $1`

	postgresConnections = 4100 // more than the most that a run has
)

func findPostgres(ctx context.Context, t Tools) (string, error) {
	return t.packaged(ctx, "postgresql", func() (string, error) {
		if all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(all) > 0 {
			return all[len(all)-1], nil
		}
		return exec.LookPath("postgres")
	})
}

// unprivileged returns whom PostgreSQL runs as, since it refuses root; nil
// unless this is root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		if account, err = user.Lookup("nobody"); err != nil {
			return nil, fmt.Errorf("find user to run PostgreSQL as: %w", err)
		}
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read user id: %w", err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read group id: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func startPostgres(ctx context.Context, s *System, file, dir string) error {
	as, err := unprivileged()
	if err != nil {
		return err
	}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return fmt.Errorf("give the directory to PostgreSQL's user: %w", err)
		}
	}
	data := filepath.Join(dir, "data")
	initialize := exec.CommandContext(ctx, filepath.Join(filepath.Dir(file), "initdb"),
		"--pgdata", data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C")
	initialize.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: as}
	initialize.Dir = dir
	if said, err := initialize.CombinedOutput(); err != nil {
		return fmt.Errorf("initialize database: %w: %s", err, lastLine(said))
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	args := []string{"-D", data, "-p", strconv.Itoa(ports[0])}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=on", "synchronous_commit=on",
		fmt.Sprintf("max_connections=%d", postgresConnections), "shared_buffers=256MB",
	} {
		args = append(args, "-c", setting)
	}
	// SIGINT is its fast shutdown: open connections are cut.
	if err := s.run("postgres", dir, program{file: file, args: args, stop: syscall.SIGINT, credential: as}); err != nil {
		return err
	}
	url := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", ports[0])
	s.connect = func(ctx context.Context, _ int) (Conn, error) { return connectPostgres(ctx, url) }
	return s.awaitTable(ctx, url)
}

// awaitTable makes the table as soon as the server takes connections.
func (s *System) awaitTable(ctx context.Context, url string) error {
	return s.await(ctx, 0, func(ctx context.Context) error {
		client, err := pgx.Connect(ctx, url)
		if err != nil {
			return fmt.Errorf("connect to PostgreSQL: %w", err)
		}
		defer client.Close(ctx)
		if _, err := client.Exec(ctx, postgresTable); err != nil {
			return fmt.Errorf("make table: %w", err)
		}
		return nil
	})
}

func connectPostgres(ctx context.Context, url string) (Conn, error) {
	client, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return postgresConn{client}, nil
}

type postgresConn struct{ client *pgx.Conn }

func (c postgresConn) Close() { _ = c.client.Close(context.Background()) } // nothing is under way

// Create returns values without the spaces that PostgreSQL writes into JSONB.
func (c postgresConn) Create(ctx context.Context, key string, value []byte) ([]byte, bool, error) {
	var kept []byte
	err := c.client.QueryRow(ctx, postgresInsert, key, value).Scan(&kept)
	switch {
	case err == nil:
		kept, err = compact(kept)
		return kept, true, err
	case !errors.Is(err, pgx.ErrNoRows):
		return nil, false, fmt.Errorf("insert row: %w", err)
	}
	if err := c.client.QueryRow(ctx, postgresSelect, key).Scan(&kept); err != nil {
		return nil, false, fmt.Errorf("select row: %w", err)
	}
	kept, err = compact(kept)
	return kept, false, err
}

func compact(value []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, value); err != nil {
		return nil, fmt.Errorf("read kept JSON: %w", err)
	}
	return b.Bytes(), nil
}
