// The numbers of routes.

package postgres

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

// routes knows the numbers of routes, which never change within a database.
type routes struct {
	db *database.DB

	mu      sync.Mutex
	numbers map[string]int32
	names   map[int32]string
}

func newRoutes(db *database.DB) *routes {
	r := &routes{db: db}
	r.forget()
	return r
}

// forget has all numbers asked for again.
func (r *routes) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.numbers, r.names = make(map[string]int32), make(map[int32]string)
}

// number returns the number of a route, which gets one if it has none.
func (r *routes) number(ctx context.Context, name string) (int32, error) {
	number, ok, err := r.find(ctx, name)
	if ok || err != nil {
		return number, err
	}
	const insert = `INSERT INTO @schema@.routes (name) VALUES ($1) ON CONFLICT (name) DO NOTHING`
	err = r.db.Transact(ctx, database.Quick, database.SQL(insert, record.Clean(name)))
	if err != nil {
		return 0, err
	}
	number, ok, err = r.find(ctx, name)
	if err == nil && !ok {
		err = errors.New("route " + name + " has no number")
	}
	return number, err
}

// find returns the number of a route, and whether it has one.
func (r *routes) find(ctx context.Context, name string) (int32, bool, error) {
	r.mu.Lock()
	number, ok := r.numbers[name]
	r.mu.Unlock()
	if ok {
		return number, true, nil
	}
	if err := r.load(ctx); err != nil {
		return 0, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if number, ok = r.numbers[record.Clean(name)]; ok {
		r.numbers[name], r.names[number] = number, name
	}
	return number, ok, nil
}

// name returns the name of a route.
func (r *routes) name(ctx context.Context, number int32) (string, error) {
	r.mu.Lock()
	name, ok := r.names[number]
	r.mu.Unlock()
	if ok {
		return name, nil
	}
	if err := r.load(ctx); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names[number], nil
}

func (r *routes) load(ctx context.Context) error {
	all := database.SQL(`SELECT id, name FROM @schema@.routes`)
	return r.db.Query(ctx, database.Quick, all.Each(func(rows pgx.Rows) error {
		var number int32
		var name string
		if err := rows.Scan(&number, &name); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.numbers[name] = number
		if _, ok := r.names[number]; !ok {
			r.names[number] = name
		}
		return nil
	}))
}
