// Package bailiwick verifies the signed header Bailiwick-Context: see docs/security/downstream.md.
package bailiwick

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

const leeway, lifetime, keysLast, fetchEvery, replaysMax = 5, 60, 5 * time.Minute, 5 * time.Second, 100_000

type jwk struct{ Kty, Crv, Kid, X string }

// Verifier is safe for use by several goroutines. It remembers contexts for a minute and more: each counts once in it.
type Verifier struct {
	issuer, audience      string
	lock                  sync.Mutex
	keys                  []jwk
	fetchedUntil, askedAt time.Time
	seen, before          map[string]bool
	turn                  float64
}

// NewVerifier: with jwks, a key set in JSON, nothing is fetched; otherwise the issuer's is, and kept for five minutes.
func NewVerifier(issuer, audience string, jwks []byte) *Verifier {
	v := &Verifier{issuer: issuer, audience: audience}
	if set := (struct{ Keys []jwk }{}); json.Unmarshal(jwks, &set) == nil {
		v.keys, v.fetchedUntil, v.askedAt = set.Keys, time.Now().AddDate(100, 0, 0), time.Now().AddDate(100, 0, 0)
	}
	return v
}

// Verify returns the claims if these header values are exactly one context, and it is of this request, now.
func (v *Verifier) Verify(contexts []string, body []byte, method, target string, at time.Time) (map[string]any, error) {
	var header, claims map[string]any
	parts, now := strings.Split(strings.Join(contexts, " "), "."), float64(at.Unix())
	if len(contexts) != 1 || len(contexts[0]) > 6*1024 || len(parts) != 3 || !decode(parts[0], &header) ||
		len(header) != 3 || header["alg"] != "EdDSA" || header["typ"] != "bailiwick-context+jwt" {
		return nil, errors.New("not exactly one context")
	}
	v.lock.Lock()
	defer v.lock.Unlock()
	key, _ := base64.RawURLEncoding.DecodeString(v.key(header["kid"]))
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	signed := err == nil && len(key) == 32 && ed25519.Verify(key, []byte(parts[0]+"."+parts[1]), signature)
	var is struct{ Iat, Exp float64 }
	var said struct{ Jti, Iss, Aud, Htm, Target, Body string }
	if !signed || !decode(parts[1], &claims) || !decode(parts[1], &is) || !decode(parts[1], &said) {
		return nil, errors.New("not signed by a known key")
	}
	whole, path, digest := sha256.Sum256(body), sha256.Sum256([]byte(target)), base64.RawURLEncoding.EncodeToString
	switch {
	case said.Iss != v.issuer || said.Aud != v.audience || said.Jti == "":
		return nil, errors.New("from another issuer, or for another service")
	case is.Iat > now+leeway || is.Exp <= now-leeway || is.Exp-is.Iat > lifetime:
		return nil, errors.New("expired, or from the future")
	case said.Htm != method || said.Target != digest(path[:]) || said.Body != digest(whole[:]):
		return nil, errors.New("of another request")
	}
	if now > v.turn {
		v.seen, v.before, v.turn = map[string]bool{}, v.seen, now+lifetime+2*leeway
	}
	if v.seen[said.Jti] || v.before[said.Jti] || len(v.seen) >= replaysMax {
		return nil, errors.New("seen before, or too many to remember")
	}
	v.seen[said.Jti] = true
	return claims, nil
}

func (v *Verifier) key(kid any) string {
	for _, key := range v.keys {
		if time.Now().Before(v.fetchedUntil) && key.Kid == kid && key.Kty == "OKP" && key.Crv == "Ed25519" {
			return key.X
		}
	}
	if client := (http.Client{Timeout: 3 * time.Second}); time.Since(v.askedAt) > fetchEvery {
		v.askedAt = time.Now()
		if answer, err := client.Get(strings.TrimSuffix(v.issuer, "/") + "/.well-known/context-jwks.json"); err == nil {
			defer answer.Body.Close()
			set, jwks := struct{ Keys []jwk }{}, json.NewDecoder(http.MaxBytesReader(nil, answer.Body, 1<<18))
			if answer.StatusCode == 200 && jwks.Decode(&set) == nil {
				v.keys, v.fetchedUntil = set.Keys, time.Now().Add(keysLast)
			}
		}
		return v.key(kid)
	}
	return ""
}

func decode(part string, into any) bool {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && json.Unmarshal(data, into) == nil
}
