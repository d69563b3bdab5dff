// The hashes of passwords: which of them can be used, and how long they take.

package auth

import (
	"encoding/base64"
	"errors"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

const (
	bcryptAlgorithm   = "http.authentication.hashes.bcrypt"
	argon2idAlgorithm = "http.authentication.hashes.argon2id"

	// maxBcryptPassword is how many bytes of a password bcrypt reads.
	maxBcryptPassword = 72
)

// bcryptFormat is a version, a cost, 22 characters of salt and 31 of hash.
var bcryptFormat = regexp.MustCompile(`^\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}$`)

// argon2idParameters is argon2id's hash in the PHC string format: the parameters
// m, t and p, the salt and the tag.
var argon2idParameters = regexp.MustCompile(
	`^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([^$]*)\$([^$]*)$`,
)

// validateHash returns an error for a hash with which every login would fail, succeed or panic.
// What the hashes of other modules look like is not known here.
func validateHash(algorithm string, stored []byte) error {
	switch algorithm {
	case bcryptAlgorithm:
		return validateBcrypt(stored)
	case argon2idAlgorithm:
		return validateArgon2id(stored)
	}
	return nil
}

func validateBcrypt(stored []byte) error {
	match := bcryptFormat.FindSubmatch(stored)
	if match == nil {
		return errors.New("it is not a bcrypt hash; make one with caddy hash-password")
	}
	if cost, _ := strconv.Atoi(string(match[1])); cost < 4 || cost > 31 {
		return errors.New("it is not a bcrypt hash: the cost must be 4 to 31")
	}
	return nil
}

// validateArgon2id checks a hash by RFC 9106, section 3.1, and wants its tag and salt to be long
// enough: with an empty tag, the hash module would find any password right.
func validateArgon2id(stored []byte) error {
	match := argon2idParameters.FindSubmatch(stored)
	if match == nil {
		return errors.New(
			"it is not an argon2id hash; make one with caddy hash-password --algorithm argon2id",
		)
	}
	if _, _, err := caddyauth.DecodeHash(stored); err != nil {
		return errors.New("it is not an argon2id hash: a parameter is out of range, " +
			"or the salt or the tag is not in base64")
	}
	passes, _ := strconv.Atoi(string(match[2]))
	threads, _ := strconv.Atoi(string(match[3]))
	salt := base64.RawStdEncoding.DecodedLen(len(match[4]))
	tag := base64.RawStdEncoding.DecodedLen(len(match[5]))
	if passes < 1 || threads < 1 || salt < 8 || tag < 16 {
		return errors.New("it is not an argon2id hash that can be used: it needs t and p of " +
			"at least 1, a salt of at least 8 bytes and a tag of at least 16")
	}
	return nil
}

// effort is the time and memory that it takes to compare a password with a hash.
type effort struct {
	parameters string // the algorithm's parameters, by which the effort is known
	hash       []byte // the hash of an account that takes it
}

// effortOf returns the index of the effort that a hash takes, and adds a new one to efforts. The
// effort of other modules' hashes is not known here: it is taken to be one for all of them.
func (h *hashedAccounts) effortOf(stored []byte) int {
	parameters := ""
	switch h.algorithm {
	case bcryptAlgorithm:
		parameters = string(bcryptFormat.FindSubmatch(stored)[1])
	case argon2idAlgorithm:
		match := argon2idParameters.FindSubmatch(stored)
		parameters = string(stored[:len(stored)-len(match[4])-len(match[5])])
	}
	for i, effort := range h.efforts {
		if effort.parameters == parameters {
			return i
		}
	}
	h.efforts = append(h.efforts, effort{parameters, stored})
	return len(h.efforts) - 1
}

// slowHash is how long a password may take to be hashed without a warning. Deepgram's self-hosted
// servers wait 10 seconds for an answer by default, and other passwords may have to be hashed
// first.
const slowHash = 2 * time.Second

// duration estimates how long it takes to hash one password on this machine. It measures a much
// smaller effort, since loading a configuration must not take as long as the real one. For the
// hashes of other modules it is 0.
func (h *hashedAccounts) duration() time.Duration {
	var sum float64 // in seconds: a Duration cannot hold what a cost of 31 takes
	for _, effort := range h.efforts {
		switch h.algorithm {
		case bcryptAlgorithm:
			cost, _ := strconv.Atoi(effort.parameters)
			sum += bcryptUnit() * float64(uint64(1)<<cost)
		case argon2idAlgorithm:
			sum += argon2idUnit() * argon2idWork(effort.hash)
		}
	}
	const limit = 1000 * time.Hour
	bounded := time.Duration(min(sum, limit.Seconds()) * float64(time.Second))
	return bounded.Round(100 * time.Millisecond)
}

// The efforts that are measured, which take a few milliseconds.
const (
	trialBcryptCost   = 6
	trialArgon2Memory = 1 << 10 // KiB
)

// bcryptUnit measures how many seconds one of bcrypt's 2^cost rounds takes.
func bcryptUnit() float64 {
	return fastest(func() {
		_, _ = bcrypt.GenerateFromPassword([]byte("trial"), trialBcryptCost)
	}) / (1 << trialBcryptCost)
}

// argon2idUnit measures how many seconds argon2id takes for one pass over one KiB.
func argon2idUnit() float64 {
	return fastest(func() {
		argon2.IDKey([]byte("trial"), []byte("trial of argon2"), 1, trialArgon2Memory, 1, 32)
	}) / trialArgon2Memory
}

// argon2idWork is how many KiB a hash passes over, divided by how many threads do
// so at the same time.
func argon2idWork(hash []byte) float64 {
	match := argon2idParameters.FindSubmatch(hash)
	parameter := func(i int) float64 {
		value, _ := strconv.ParseFloat(string(match[i]), 64)
		return value
	}
	return parameter(1) * parameter(2) / min(parameter(3), float64(runtime.GOMAXPROCS(0)))
}

// fastest is how many seconds a function takes in the fastest of three tries.
func fastest(try func()) float64 {
	best := time.Hour
	for range 3 {
		start := time.Now()
		try()
		best = min(best, time.Since(start))
	}
	return best.Seconds()
}
