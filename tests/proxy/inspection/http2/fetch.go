// HTTP/2 by Go's net/http, which finds the proxy in its environment: fetch CA URL... prints "<protocol> <status> <body>".
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	pem, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots},
	}
	client := &http.Client{Transport: transport}
	for _, url := range os.Args[2:] {
		answer, err := client.Post(url, "text/plain", strings.NewReader("hello from go"))
		if err != nil {
			fmt.Println(err)
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Println(answer.Proto, answer.StatusCode, strings.TrimSpace(string(body)))
	}
}
