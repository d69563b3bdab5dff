package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// countingComparer takes "right" for right, and counts.
type countingComparer struct {
	calls, running, most atomic.Int64

	takes time.Duration // in a bubble
	gate  chan struct{} // closed, or given a value for each hash, if not nil
	err   error
}

func (c *countingComparer) Compare(_, plaintext []byte) (bool, error) {
	c.calls.Add(1)
	running := c.running.Add(1)
	defer c.running.Add(-1)
	for {
		most := c.most.Load()
		if running <= most || c.most.CompareAndSwap(most, running) {
			break
		}
	}
	if c.takes > 0 {
		time.Sleep(c.takes)
	}
	if c.gate != nil {
		<-c.gate
	}
	return string(plaintext) == "right", c.err
}

// otherHash is a hash module that neither Caddy nor this package knows.
type otherHash struct{}

func init() { caddy.RegisterModule(otherHash{}) }

func (otherHash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.authentication.hashes.other",
		New: func() caddy.Module { return new(otherHash) },
	}
}

func (otherHash) Compare(hashed, plaintext []byte) (bool, error) {
	return string(hashed) == "$other$"+strings.ToUpper(string(plaintext)), nil
}

// randomHash looks like a bcrypt hash that no other test has.
func randomHash() string {
	const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	var b strings.Builder
	b.WriteString("$2a$10$")
	for range 53 {
		b.WriteByte(alphabet[rand.IntN(len(alphabet))])
	}
	return b.String()
}

// countingPolicy has the user alice, whose password is "right", a queue of its
// own, and what else is configured.
func countingPolicy(t testing.TB, more string) (*Policy, *countingComparer) {
	t.Helper()
	return policyWithHash(t, randomHash(), more)
}

func policyWithHash(t testing.TB, hash, more string) (*Policy, *countingComparer) {
	t.Helper()
	if more != "" {
		more = "," + more
	}
	p := mustProvision(t,
		`{"basic_auth":{"accounts":[{"username":"alice","password":"`+hash+`"}]}`+more+`}`)
	comparer := new(countingComparer)
	p.judge.basic.hashed.comparer = comparer
	p.judge.basic.hashed.queue = newHashQueue(1, hashQueueLength, hashQueueWait)
	return p, comparer
}

func logIn(p *Policy, address, username, password string) error {
	r := request("POST", "/")
	r.RemoteAddr = address + ":1234"
	r.SetBasicAuth(username, password)
	_, err := p.Admit(r)
	return err
}

const client = "192.0.2.1"

func TestARightPasswordIsHashedOnce(t *testing.T) {
	p, comparer := countingPolicy(t, "")
	for range 50 {
		require.NoError(t, logIn(p, client, "alice", "right"))
	}
	require.EqualValues(t, 1, comparer.calls.Load())
}

func TestAWrongPasswordIsHashedAndCountedOnce(t *testing.T) {
	p, comparer := countingPolicy(t, `"guess_limit":{"guesses":2,"window":60000000000}`)
	for range 50 {
		require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "alice", "wrong")).Reason)
		require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "nobody", "right")).Reason)
	}
	require.EqualValues(t, 2, comparer.calls.Load())
}

// Between the look at what is remembered and the flight, the same login may have
// been hashed by somebody else.
func TestALoginThatWasHashedInTheMeantimeIsNotHashedAgain(t *testing.T) {
	p, comparer := countingPolicy(t, "")
	h := p.judge.basic.hashed
	for key, add := range map[digest]func(digest){
		digestOf("right", t.Name()): func(key digest) { recognised.Add(key, struct{}{}) },
		digestOf("wrong", t.Name()): func(key digest) { h.wrong.Add(key, struct{}{}) },
	} {
		add(key)
		h.decide(sender.Network(request("POST", "/")), key, login{"alice", "right"})
	}
	require.Zero(t, comparer.calls.Load())
	require.Zero(t, h.guesses.addresses.Len())
}

func TestRecognitionOutlivesAConfigurationUnlessTheHashChanged(t *testing.T) {
	hash := randomHash()
	before, _ := policyWithHash(t, hash, "")
	require.NoError(t, logIn(before, client, "alice", "right"))

	same, comparer := policyWithHash(t, hash,
		`"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"],"if_present":true}`)
	require.NoError(t, logIn(same, client, "alice", "right"))
	require.Zero(t, comparer.calls.Load())

	changed, comparer := countingPolicy(t, "")
	require.NoError(t, logIn(changed, client, "alice", "right"))
	require.EqualValues(t, 1, comparer.calls.Load())
}

func TestARemovedAccountIsNotRecognised(t *testing.T) {
	hash := randomHash()
	before, _ := policyWithHash(t, hash, "")
	require.NoError(t, logIn(before, client, "alice", "right"))
	after := mustProvision(t, `{"basic_auth":{"accounts":[{"username":"bob","password":"`+hash+`"}]}}`)
	after.judge.basic.hashed.comparer = new(countingComparer)
	require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(after, client, "alice", "right")).Reason)
}

func TestOnlyWrongGuessesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, comparer := countingPolicy(t, `"guess_limit":{"guesses":3,"window":60000000000}`)
		var refused *Refusal

		require.Error(t, logIn(p, client, "alice", "wrong 1"))
		time.Sleep(10 * time.Second)
		require.NoError(t, logIn(p, client, "alice", "right"))
		require.Error(t, logIn(p, client, "alice", "wrong 2"))
		require.Error(t, logIn(p, client, "alice", "wrong 3"))
		require.EqualValues(t, 4, comparer.calls.Load())

		time.Sleep(20*time.Second + time.Millisecond)
		refused = refusal(t, logIn(p, client, "alice", "wrong 4"))
		require.Equal(t, http.StatusTooManyRequests, refused.Status)
		require.Equal(t, ReasonGuessLimit, refused.Reason)
		require.Empty(t, refused.Challenges)
		require.Equal(t, 30*time.Second-time.Millisecond, refused.RetryAfter)
		require.EqualValues(t, 4, comparer.calls.Load(), "a throttled guess was hashed")

		require.NoError(t, logIn(p, client, "alice", "right"), "who is recognised passes")
		require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "alice", "wrong 2")).Reason,
			"what is known to be wrong is told so")
		require.Equal(t, ReasonBasicAuthWrong,
			refusal(t, logIn(p, "192.0.2.2", "alice", "wrong 4")).Reason,
			"another address has its own limit")

		time.Sleep(30*time.Second - time.Millisecond - time.Nanosecond)
		refused = refusal(t, logIn(p, client, "alice", "wrong 5"))
		require.Equal(t, ReasonGuessLimit, refused.Reason)
		require.Equal(t, time.Nanosecond, refused.RetryAfter)
		time.Sleep(time.Nanosecond)
		require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "alice", "wrong 5")).Reason,
			"the first guess has left the window")
		require.Equal(t, ReasonGuessLimit, refusal(t, logIn(p, client, "alice", "wrong 6")).Reason)
	})
}

func TestThrottledUnderAnyTheBodyStillDecides(t *testing.T) {
	p, _ := countingPolicy(t,
		`"require":"any","callback_secret":["a-secret-of-2025"],"guess_limit":{"guesses":1,`+
			`"window":60000000000}`)
	for _, password := range []string{"wrong 1", "wrong 2"} {
		r := request("POST", "/")
		r.SetBasicAuth("alice", password)
		admission, err := p.Admit(r)
		require.NoError(t, err)
		require.Equal(t, Admission{BodySecret: true}, admission)
	}
}

func TestAFloodOfGuessesHashesNoMoreThanTheLimitAndDelaysNobodyRecognised(t *testing.T) {
	const limit = 20
	p, comparer := countingPolicy(t, `"guess_limit":{"guesses":20,"window":3600000000000}`)
	p.judge.basic.hashed.queue = newHashQueue(4, 1000, time.Minute)
	require.NoError(t, logIn(p, client, "alice", "right"))
	comparer.calls.Store(0)
	comparer.gate = make(chan struct{})

	var flood sync.WaitGroup
	var wrong, throttled atomic.Int64
	for worker := range 16 {
		flood.Go(func() {
			for guess := range 50 {
				err := logIn(p, client, "alice", fmt.Sprintf("wrong %d %d", worker, guess))
				switch refusal(t, err).Reason {
				case ReasonBasicAuthWrong:
					wrong.Add(1)
				case ReasonGuessLimit:
					throttled.Add(1)
				}
			}
		})
	}
	// all slots are hashing, and none of them ends
	require.Eventually(t, func() bool { return comparer.running.Load() == 4 },
		10*time.Second, time.Millisecond)
	for range 1000 {
		require.NoError(t, logIn(p, client, "alice", "right"))
	}
	close(comparer.gate)
	flood.Wait()
	require.EqualValues(t, limit, comparer.calls.Load())
	require.EqualValues(t, limit, wrong.Load())
	require.EqualValues(t, 16*50-limit, throttled.Load())
	require.EqualValues(t, 4, comparer.most.Load())
}

func TestTheSameLoginIsHashedOnceForAllWhoBringItAtATime(t *testing.T) {
	for password, wantErr := range map[string]bool{"right": false, "wrong": true} {
		synctest.Test(t, func(t *testing.T) {
			p, comparer := countingPolicy(t, `"guess_limit":{"guesses":1,"window":60000000000}`)
			comparer.takes = time.Second
			var callers sync.WaitGroup
			for i := range 16 {
				callers.Go(func() {
					err := logIn(p, "192.0.2."+strconv.Itoa(i), "alice", password)
					require.Equal(t, wantErr, err != nil)
				})
			}
			callers.Wait()
			require.EqualValues(t, 1, comparer.calls.Load())
		})
	}
}

func TestHashingForACallerThatWentAwayIsOfUseToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, comparer := countingPolicy(t, `"guess_limit":{"guesses":2,"window":60000000000}`)
		comparer.takes = time.Second
		var callers sync.WaitGroup
		callers.Go(func() { require.Error(t, logIn(p, client, "alice", "wrong")) }) // holds the only slot
		synctest.Wait()

		ctx, cancel := context.WithCancel(t.Context())
		callers.Go(func() {
			r := request("POST", "/").WithContext(ctx)
			r.SetBasicAuth("alice", "right")
			_, err := p.Admit(r)
			require.Equal(t, ReasonHashQueue, refusal(t, err).Reason)
		})
		synctest.Wait()
		callers.Go(func() { require.NoError(t, logIn(p, client, "alice", "right")) })
		synctest.Wait()
		cancel()
		callers.Wait()
		require.EqualValues(t, 2, comparer.calls.Load())

		// the right one is no guess: one was wrong, one is left
		require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "alice", "wrong 2")).Reason)
		require.Equal(t, ReasonGuessLimit, refusal(t, logIn(p, client, "alice", "wrong 3")).Reason)
	})
}

func TestWaitingForTheSameLoginEndsWithTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, comparer := countingPolicy(t, "")
		comparer.takes = time.Hour
		var callers sync.WaitGroup
		callers.Go(func() { require.NoError(t, logIn(p, client, "alice", "right")) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := request("POST", "/").WithContext(ctx)
		r.SetBasicAuth("alice", "right")
		start := time.Now()
		_, err := p.Admit(r)
		require.Equal(t, ReasonHashQueue, refusal(t, err).Reason)
		require.Equal(t, time.Second, time.Since(start))
		callers.Wait()
	})
}

func TestTheQueueForHashingIsBoundedInLengthAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, comparer := countingPolicy(t, `"guess_limit":{"guesses":2,"window":60000000000}`)
		p.judge.basic.hashed.queue = newHashQueue(1, 1, 5*time.Second)
		comparer.takes = 30 * time.Second
		var callers sync.WaitGroup
		defer callers.Wait()
		callers.Go(func() { _ = logIn(p, "192.0.2.10", "alice", "wrong 1") })
		synctest.Wait()

		start := time.Now()
		callers.Go(func() {
			refused := refusal(t, logIn(p, "192.0.2.11", "alice", "wrong 2"))
			require.Equal(t, ReasonHashQueue, refused.Reason)
			require.Equal(t, 5*time.Second, time.Since(start), "the bounded wait")
		})
		synctest.Wait()

		// more often than the guess limit allows: none of these counts as a guess
		for i := range 5 {
			refused := refusal(t, logIn(p, client, "alice", "wrong 3"+strconv.Itoa(i)))
			require.Equal(t, http.StatusTooManyRequests, refused.Status)
			require.Equal(t, ReasonHashQueue, refused.Reason)
			require.Equal(t, 5*time.Second, refused.RetryAfter)
		}
		require.Zero(t, time.Since(start), "a full queue does not make anyone wait")
		time.Sleep(31 * time.Second)
		require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "alice", "wrong 3")).Reason)
		require.EqualValues(t, 2, comparer.calls.Load())
	})
}

func TestAFailingHashModuleIsARefusalOfItsOwn(t *testing.T) {
	p, comparer := countingPolicy(t, `"guess_limit":{"guesses":2,"window":60000000000}`)
	comparer.err = errors.New("out of order")
	refused := refusal(t, logIn(p, client, "alice", "right"))
	require.Equal(t, http.StatusUnauthorized, refused.Status)
	require.Equal(t, ReasonBasicAuthError, refused.Reason)
	require.NotEmpty(t, refused.Challenges)
	require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "nobody", "right")).Reason)
	require.Equal(t, ReasonGuessLimit, refusal(t, logIn(p, client, "alice", "right")).Reason,
		"it counts: nothing says that it was cheap")

	comparer.err = nil
	require.NoError(t, logIn(p, "192.0.2.2", "alice", "right"), "a failure is not remembered")
}

// panickingComparer is a hash module with a bug.
type panickingComparer struct{}

func (panickingComparer) Compare(_, _ []byte) (bool, error) { panic("bug") }

func TestAPanicOfTheHashModuleEndsNeitherTheProcessNorTheQueue(t *testing.T) {
	p, comparer := countingPolicy(t, "")
	p.judge.basic.hashed.comparer = panickingComparer{}
	refused := refusal(t, logIn(p, client, "alice", "right"))
	require.Equal(t, ReasonBasicAuthError, refused.Reason)
	require.ErrorContains(t, refused, "the hash module panicked: bug")
	p.judge.basic.hashed.comparer = comparer
	require.NoError(t, logIn(p, client, "alice", "right"))
}

func TestBcryptRefusesWhatItWouldReadOnlyInPart(t *testing.T) {
	const (
		password = "0123456789ab0123456789ab0123456789ab0123456789ab0123456789ab0123456789ab" // 72 bytes
		hash     = "$2a$04$MAMohYqpRH6Jv1pZAwgMWOpSqn1vYQKoXHhbzv3sTx09SAXw3.ZMm"
	)
	p := mustProvision(t,
		`{"basic_auth":{"accounts":[{"username":"alice","password":"`+hash+
			`"},{"username":"bob","password":"`+bcryptHash+`"}]},
		"guess_limit":{"guesses":1,"window":60000000000}}`)
	require.NoError(t, logIn(p, client, "alice", password))
	for range 3 {
		require.Equal(t, ReasonBasicAuthWrong, refusal(t, logIn(p, client, "alice", password+"x")).Reason)
		require.Equal(t, ReasonBasicAuthWrong,
			refusal(t, logIn(p, client, "alice", password+strings.Repeat("x", 1000))).Reason)
		require.Equal(t, ReasonBasicAuthWrong,
			refusal(t, logIn(p, client, "bob", "correct horse\x00correct horse")).Reason)
	}
	require.NoError(t, logIn(p, client, "bob", "correct horse"))
}

func TestHashesOfEveryKindAreUnderstood(t *testing.T) {
	for name, test := range map[string]struct{ hash, algorithm string }{
		"bcrypt by default": {bcryptHash, ""},
		"bcrypt":            {bcryptHash, `"hash":{"algorithm":"bcrypt"},`},
		"bcrypt, version y": {strings.Replace(bcryptHash, "$2a$", "$2y$", 1), ""},
		"bcrypt in base64":  {base64.StdEncoding.EncodeToString([]byte(bcryptHash)), ""},
		"another module":    {"$other$CORRECT HORSE", `"hash":{"algorithm":"other"},`},
		"argon2id":          {argon2idHash, `"hash":{"algorithm":"argon2id"},`},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustProvision(t,
				`{"basic_auth":{`+test.algorithm+`"accounts":[{"username":"alice","password":"`+
					test.hash+`"}]}}`)
			for range 2 {
				require.NoError(t, logIn(p, client, "alice", "correct horse"))
				require.Equal(t, ReasonBasicAuthWrong,
					refusal(t, logIn(p, client, "alice", "incorrect horse")).Reason)
			}
		})
	}
}

func TestGuessesAreCountedForTheClientThatCaddyDetermined(t *testing.T) {
	for name, test := range map[string]struct {
		clientIP   any
		remoteAddr string
		want       string
	}{
		"IPv4":                      {"192.0.2.7", "198.51.100.1:1", "192.0.2.7/32"},
		"IPv4 mapped into IPv6":     {"::ffff:192.0.2.7", "198.51.100.1:1", "192.0.2.7/32"},
		"IPv6":                      {"2001:db8:1:2:3:4:5:6", "198.51.100.1:1", "2001:db8:1:2::/64"},
		"IPv6 with a zone":          {"fe80::1%eth0", "198.51.100.1:1", "fe80::/64"},
		"not known to Caddy":        {nil, "198.51.100.1:1", "198.51.100.1/32"},
		"not an address":            {"", "[2001:db8:1:2:3::1]:1", "2001:db8:1:2::/64"},
		"a Unix socket":             {"@", "@", "invalid Prefix"},
		"a Unix socket, not a name": {nil, "", "invalid Prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request("POST", "/")
			r.RemoteAddr = test.remoteAddr
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
			if test.clientIP != nil {
				caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, test.clientIP)
			}
			require.Equal(t, test.want, sender.Network(r).String())
		})
	}
}

func TestTheTableOfAddressesIsBounded(t *testing.T) {
	limiter, err := newGuessLimiter(1, time.Hour, 2)
	require.NoError(t, err)
	address := func(last byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 32)
	}
	first, _, ok := limiter.reserve(address(1), 0)
	require.True(t, ok)
	for last := byte(2); last < 5; last++ {
		_, _, ok := limiter.reserve(address(last), 0)
		require.True(t, ok)
	}
	require.Equal(t, 2, limiter.addresses.Len())
	limiter.refund(first) // of an address that made room: nothing happens
	_, _, ok = limiter.reserve(address(4), 0)
	require.False(t, ok)
}

func TestADigesterKeepsNothingOfWhatItDigested(t *testing.T) {
	d := digesters.New().(*digester)
	for _, password := range []string{longPassword, strings.Repeat(longPassword, 100), longPassword} {
		d.digest([]string{"alice", password})
		kept := string(d.buffer[:cap(d.buffer)])
		require.NotContains(t, kept, longPassword[len(longPassword)-8:])
	}
}

func TestDigestsOfDifferentFieldsDiffer(t *testing.T) {
	seen := make(map[digest][]string)
	for _, fields := range [][]string{{}, {""}, {"", ""}, {"ab"}, {"a", "b"}, {"ab", ""}, {"", "ab"},
		{"\x01a", "b"}, {"a\x01b"}} {
		require.NotContains(t, seen, digestOf(fields...), "%q", fields)
		seen[digestOf(fields...)] = fields
		require.Equal(t, digestOf(fields...), digestOf(fields...))
	}
}
