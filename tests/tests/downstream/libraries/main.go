// Has docs/downstream/context.go judge the cases of a file: prints whether it believes each, as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"check/bailiwick"
)

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var world struct {
		Issuer, Audience string
		Jwks             json.RawMessage
		Cases            []struct {
			Contexts                       []string
			Body, Method, Target, Audience string
			Now                            int64
			Times                          int
		}
	}
	if err := json.Unmarshal(text, &world); err != nil {
		panic(err)
	}
	believed := []bool{}
	for _, one := range world.Cases {
		if one.Audience == "" {
			one.Audience = world.Audience
		}
		verifier := bailiwick.NewVerifier(world.Issuer, one.Audience, world.Jwks)
		last := false
		for time_ := 0; time_ < max(one.Times, 1); time_++ {
			at := time.Unix(one.Now, 0)
			_, err := verifier.Verify(one.Contexts, []byte(one.Body), one.Method, one.Target, at)
			last = err == nil
		}
		believed = append(believed, last)
	}
	out, _ := json.Marshal(believed)
	fmt.Println(string(out))
}
