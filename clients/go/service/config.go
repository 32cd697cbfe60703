package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// A config is what the environment says.
type config struct {
	databaseURL  string // DATABASE_URL
	listenURL    string // LISTEN_URL: past a pooler, which LISTEN does not pass
	gatewayURL   string // GATEWAY_URL: of a pgpubsub-gateway, if one runs
	channel      string // PUB_SUB_CHANNEL
	subscription string // PUB_SUB_SUBSCRIPTION
	debug        bool   // DEBUG
}

// readConfig reads the environment, and beneath it the file .env of the current
// directory, if there is one.
func readConfig() (*config, error) {
	file, err := readEnvFile(".env")
	if err != nil {
		return nil, err
	}
	get := func(name, otherwise string) string {
		if value, ok := os.LookupEnv(name); ok {
			return value
		}
		if value, ok := file[name]; ok {
			return value
		}
		return otherwise
	}
	c := &config{
		databaseURL: get("DATABASE_URL", ""),
		gatewayURL:  get("GATEWAY_URL", ""),
		channel:     get("PUB_SUB_CHANNEL", "job"),
	}
	c.listenURL = get("LISTEN_URL", c.databaseURL)
	c.subscription = get("PUB_SUB_SUBSCRIPTION", c.channel+"_listener")
	if c.databaseURL == "" {
		return nil, errors.New("DATABASE_URL is not set: postgres://user@host/database, in the environment or in the file .env")
	}
	if text := get("DEBUG", ""); text != "" {
		if c.debug, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("DEBUG is %q: want true or false", text)
		}
	}
	return c, nil
}

// readEnvFile reads lines NAME=value, where the value may stand in single or
// double quotes; also empty ones, comments, and an export before the name.
func readEnvFile(name string) (map[string]string, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()

	values := make(map[string]string)
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.ContainsAny(key, " \t") {
			return nil, fmt.Errorf("%s, line %d: want NAME=value", name, number)
		}
		if values[key], err = unquote(strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, number, err)
		}
	}
	return values, lines.Err()
}

// unquote takes quotes, and a comment behind the value, away.
func unquote(value string) (string, error) {
	if value == "" || (value[0] != '"' && value[0] != '\'') {
		if i := strings.Index(value, " #"); i >= 0 {
			value = strings.TrimSpace(value[:i])
		}
		return value, nil
	}
	inner, rest, ok := strings.Cut(value[1:], value[:1])
	rest = strings.TrimSpace(rest)
	if !ok || (rest != "" && rest[0] != '#') {
		return "", errors.New("the quotes are not closed")
	}
	return inner, nil
}
