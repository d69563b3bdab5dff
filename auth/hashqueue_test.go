package auth

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// guessUntil has one caller guess at an account without a pause, each time
// another password.
func guessUntil(
	done <-chan struct{}, callers *sync.WaitGroup, p *Policy, address, username string,
) {
	number := new(atomic.Int64)
	callers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			_ = logIn(p, address, username, fmt.Sprintf("wrong %d %s %p", number.Add(1), address, number))
			time.Sleep(100 * time.Millisecond) // the way there and back
		}
	})
}

// flood has 160 connections of 8 addresses guess, and begins two seconds ago.
func flood(of *Policy, username string) (stop func()) {
	done := make(chan struct{})
	var callers sync.WaitGroup
	for connection := range 160 {
		guessUntil(done, &callers, of, "192.0.2."+strconv.Itoa(connection%8), username)
	}
	time.Sleep(2 * time.Second)
	return func() {
		close(done)
		callers.Wait()
	}
}

// shared has two policies take turns at one queue.
func shared(t *testing.T, limit string) (one, other *Policy) {
	one, slow := countingPolicy(t, limit)
	slow.takes = 50 * time.Millisecond
	other, slow = countingPolicy(t, limit)
	slow.takes = 50 * time.Millisecond
	other.judge.basic.hashed.queue = one.judge.basic.hashed.queue
	return one, other
}

const muchGuessing = `"guess_limit":{"guesses":100000,"window":60000000000}`

func TestAFirstLoginGetsItsTurnWhileOthersGuess(t *testing.T) {
	// one after the other, as they purge what is recognised
	for name, test := range map[string]struct {
		limit, address, guessed string
		otherPolicy             bool
		within                  time.Duration
	}{
		"from another address, at the same account": {muchGuessing, "198.51.100.1", "alice",
			false, 200 * time.Millisecond},
		"from an address that guesses at another account": {muchGuessing, "192.0.2.3", "bob",
			false, 5 * time.Second},
		"from an address that guesses elsewhere": {muchGuessing, "192.0.2.3", "alice",
			true, 5 * time.Second},
		"from an address over its limit for another account": {"", "192.0.2.3", "bob", false,
			5 * time.Second},
		"from an address over its limit elsewhere": {"", "192.0.2.3", "alice", true, 5 * time.Second},
		"from another address, where all guess within a limit": {"", "198.51.100.1", "alice", false,
			200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				guessed, wanted := shared(t, test.limit)
				if !test.otherPolicy {
					wanted = guessed
				}
				defer flood(guessed, test.guessed)()
				for try := range 3 {
					start := time.Now()
					password := "right"
					if try > 0 { // a rotation: recognised no more
						recognised.Purge()
					}
					require.NoError(t, logIn(wanted, test.address, "alice", password))
					require.LessOrEqual(t, time.Since(start), test.within)
				}
			})
		})
	}
}

// However many addresses there are that have not guessed yet, a suspect one has
// its turns.
func TestASuspectAddressIsNotShutOutByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := shared(t, muchGuessing)
		require.Error(t, logIn(p, "192.0.2.3", "bob", "wrong"))
		done := make(chan struct{})
		var callers sync.WaitGroup
		fresh := new(atomic.Int64)
		for range 40 {
			callers.Go(func() {
				for n := fresh.Add(1); ; n = fresh.Add(1) {
					select {
					case <-done:
						return
					default:
					}
					_ = logIn(p, fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255), "alice",
						"wrong "+strconv.FormatInt(n, 10))
				}
			})
		}
		time.Sleep(time.Second)
		start := time.Now()
		require.NoError(t, logIn(other, "192.0.2.3", "alice", "right"))
		require.LessOrEqual(t, time.Since(start), time.Second)
		close(done)
		callers.Wait()
	})
}

func TestTurnsAreSharedByAddressAndThenByAccount(t *testing.T) {
	q := newHashQueue(1, 100, time.Minute)
	join := func(last byte, username string) *hasher {
		h := &hasher{
			address: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 32),
			account: account{username: username},
			turn:    make(chan bool, 1),
		}
		if !q.join(h) {
			h.turn <- true
		}
		return h
	}
	q.wrong(netip.MustParsePrefix("192.0.2.9/32"))
	first := join(1, "a")
	require.True(t, <-first.turn)
	names := map[*hasher]string{}
	var waiting []*hasher
	for _, who := range []struct {
		last     byte
		username string
	}{{1, "a"}, {1, "a"}, {1, "a"}, {9, "s"}, {9, "s"}, {1, "b"}, {2, "c"}} {
		h := join(who.last, who.username)
		names[h] = fmt.Sprintf("%d%s", who.last, who.username)
		waiting = append(waiting, h)
	}
	var order []string
	for range names {
		q.release()
		for _, h := range waiting {
			select {
			case <-h.turn:
				order = append(order, names[h])
			default:
			}
		}
	}
	require.Equal(t, []string{"1a", "2c", "1b", "9s", "1a", "1a", "9s"}, order)
	q.release()
	require.Equal(t, 1, q.free)
	require.Empty(t, q.served)
}

func TestPlacesAreTakenFromWhoHasTheMost(t *testing.T) {
	q := newHashQueue(1, 4, time.Minute)
	join := func(last byte) *hasher {
		h := &hasher{
			address: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 32),
			turn:    make(chan bool, 1),
		}
		q.join(h)
		return h
	}
	dismissed := func(h *hasher) bool { return len(h.turn) == 1 }
	q.wrong(netip.MustParsePrefix("192.0.2.9/32"))
	join(1) // has its turn
	a, b, c, suspect := join(1), join(1), join(2), join(9)
	require.True(t, dismissed(join(9)), "a suspect has the most, and is the last")
	d := join(3)
	require.True(t, dismissed(suspect), "a suspect comes last")
	e := join(1)
	require.True(t, dismissed(e))
	f := join(3)
	require.True(t, dismissed(f), "of two with as many, the one who came last")
	for _, h := range []*hasher{a, b, c, d} {
		require.False(t, dismissed(h))
	}
}

// costComparer takes what a hash says, in milliseconds.
type costComparer struct{ total atomic.Int64 }

func (c *costComparer) Compare(hashed, plaintext []byte) (bool, error) {
	cost, _ := strconv.Atoi(string(hashed[4:6]))
	c.total.Add(1 << cost)
	time.Sleep((1 << cost) * time.Microsecond)
	return string(plaintext) == "right", nil
}

func TestAccountsAreNotToldApartByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const salted = "MAMohYqpRH6Jv1pZAwgMWOpSqn1vYQKoXHhbzv3sTx09SAXw3.ZMm"
		account := func(name, cost string) string {
			return `{"username":"` + name + `","password":"$2a$` + cost + `$` + salted + `"}`
		}
		p := mustProvision(t,
			`{"basic_auth":{"accounts":[`+account("cheap", "04")+`,`+account("dear", "12")+`,`+
				account("other", "12")+`,`+account("middle", "10")+`]}}`)
		h := p.judge.basic.hashed
		h.comparer, h.queue = new(costComparer), newHashQueue(1, hashQueueLength, hashQueueWait)
		took := make(map[string]time.Duration)
		for _, username := range []string{"cheap", "dear", "other", "middle", "nobody", "nobody else"} {
			for _, password := range []string{"wrong", "right"} {
				start := time.Now()
				err := logIn(p, client, username, password)
				require.Equal(t, password == "right" && h.accounts[username].stored != nil, err == nil,
					"%s %s", username, password)
				took[username+" "+password] = time.Since(start)
			}
		}
		for who, duration := range took {
			require.Equal(t, took["dear wrong"], duration, who)
		}
	})
}

func TestAnExpensiveHashIsEstimatedWithoutHashingIt(t *testing.T) {
	cost := func(cost string) *hashedAccounts {
		h := &hashedAccounts{algorithm: bcryptAlgorithm}
		h.effortOf([]byte("$2a$" + cost + bcryptHash[6:]))
		return h
	}
	start := time.Now()
	require.Greater(t, cost("20").duration(), slowHash)
	require.Greater(t, cost("31").duration(), time.Hour)
	argon := &hashedAccounts{algorithm: argon2idAlgorithm}
	argon.effortOf([]byte("$argon2id$v=19$m=4194304,t=100,p=1$" +
		"MDEyMzQ1Njc4OWFiY2RlZg$MjZP1+1U9JUbDWvDvtLyEsZiNXOKEUxfi6O2oe46uxA"))
	require.Greater(t, argon.duration(), slowHash)
	require.Less(t, time.Since(start), 5*time.Second)

	require.Less(t, cost("04").duration(), slowHash)
	other := &hashedAccounts{
		algorithm: "http.authentication.hashes.other",
		efforts:   []effort{{}},
	}
	require.Zero(t, other.duration())
}

func TestAUsernameHasOneGuessBeyondTheLimitOfItsAddress(t *testing.T) {
	p, comparer := countingPolicy(t, `"guess_limit":{"guesses":2,"window":60000000000}`)
	reasons := func(username string, passwords ...string) (all []string) {
		for _, password := range passwords {
			all = append(all, refusal(t, logIn(p, client, username, password)).Reason)
		}
		return all
	}
	require.Equal(t, []string{ReasonBasicAuthWrong, ReasonBasicAuthWrong, ReasonGuessLimit},
		reasons("alice", "1", "2", "3"))
	require.Equal(t, []string{ReasonBasicAuthWrong, ReasonGuessLimit}, reasons("bob", "1", "2"))
	require.Equal(t, []string{ReasonBasicAuthWrong, ReasonGuessLimit}, reasons("carol", "1", "2"))
	require.Equal(t, []string{ReasonGuessLimit}, reasons("dave", "1"), "as many of these as the limit")
	require.EqualValues(t, 4, comparer.calls.Load())
}

func TestWrongSecretsAreLimitedByAddressAndRightOnesNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			token  = "51f1ad0b-4c3f-4d0e-9f61-0123456789a1"
			secret = "a-secret-of-2025"
		)
		for kind, test := range map[string]struct {
			config string
			call   func(p *Policy, address, value string) error
			right  string
		}{
			"dg_token": {`{"dg_token":{"key_ids":["` + token +
				`"]},"guess_limit":{"guesses":3,"window":60000000000}}`,
				func(p *Policy, address, value string) error {
					r := request(http.MethodPost, "/")
					r.RemoteAddr = address
					r.Header.Set("dg-token", value)
					_, err := p.Admit(r)
					return err
				}, token},
			"query_secret": {`{"query_secret":{"parameter":"t","secrets":["` + secret +
				`"]},"guess_limit":{"guesses":3,"window":60000000000}}`,
				func(p *Policy, address, value string) error {
					r := request(http.MethodPost, "/?t="+value)
					r.RemoteAddr = address
					_, err := p.Admit(r)
					return err
				}, secret},
			"callback_secret": {`{"callback_secret":["` + secret +
				`"],"guess_limit":{"guesses":3,"window":60000000000}}`,
				func(p *Policy, address, value string) error {
					return callWithBody(p, address, `{"metadata":{"extra":{"callback_secret":"`+value+`"}}}`)
				}, secret},
		} {
			p := mustProvision(t, test.config)
			here, neighbour, elsewhere := "[2001:db8:1:2::1]:1", "[2001:db8:1:2::2]:1", "[2001:db8:1:3::1]:1"
			for i := range 3 {
				for range 20 { // an old secret comes again and again
					require.Equal(t, http.StatusUnauthorized,
						refusal(t, test.call(p, here, "wrong-"+strconv.Itoa(i))).Status, kind)
				}
			}
			refused := refusal(t, test.call(p, neighbour, "wrong-3"))
			require.Equal(t, http.StatusTooManyRequests, refused.Status, kind)
			require.Equal(t, ReasonGuessLimit, refused.Reason, kind)
			require.Equal(t, time.Minute, refused.RetryAfter, kind)
			require.NoError(t, test.call(p, here, test.right), kind)
			require.Equal(t, http.StatusUnauthorized, refusal(t, test.call(p, here, "wrong-0")).Status,
				"a known one is told so")
			require.Equal(t, http.StatusUnauthorized,
				refusal(t, test.call(p, elsewhere, "wrong-4")).Status, kind)

			time.Sleep(time.Minute)
			require.Equal(t, http.StatusUnauthorized, refusal(t, test.call(p, here, "wrong-3")).Status, kind)
		}
	})
}
