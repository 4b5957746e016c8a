package main

import (
	"flag"
	"strconv"
	"strings"
	"time"

	rocketmq "github.com/apache/rocketmq-clients/golang/v5"
)

// options are the words of the command line after the action.
type options struct {
	endpoint, topic, group, where, tags, tls string
	liteTopics                               []int
	count, first, lines, expect              int
	failEvery, failTimes, expectFailed       int
	pause, seconds, invisible                time.Duration
}

func readOptions(words []string) (*options, error) {
	var read options
	var pauseMs, seconds, invisible int
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&read.endpoint, "endpoint", "", "")
	flags.StringVar(&read.topic, "topic", "", "")
	flags.StringVar(&read.group, "group", "", "")
	flags.StringVar(&read.where, "where", "", "")
	flags.StringVar(&read.tags, "tags", "", "")
	flags.StringVar(&read.tls, "tls", "", "")
	flags.IntVar(&read.count, "count", 100, "")
	flags.IntVar(&read.first, "first", 0, "")
	flags.IntVar(&read.lines, "lines", 0, "")
	flags.Func("lite-topics", "", func(text string) error {
		for _, number := range strings.Split(text, ",") {
			parsed, err := strconv.Atoi(number)
			if err != nil {
				return err
			}
			read.liteTopics = append(read.liteTopics, parsed)
		}
		return nil
	})
	flags.IntVar(&read.expect, "expect", 0, "")
	flags.IntVar(&read.failEvery, "fail-every", 0, "")
	flags.IntVar(&read.failTimes, "fail-times", 1, "")
	flags.IntVar(&read.expectFailed, "expect-failed", 0, "")
	flags.IntVar(&pauseMs, "pause-ms", 0, "")
	flags.IntVar(&seconds, "seconds", 60, "")
	flags.IntVar(&invisible, "invisible", 15, "")
	if err := flags.Parse(words); err != nil {
		return nil, err
	}
	read.pause = time.Duration(pauseMs) * time.Millisecond
	read.seconds = time.Duration(seconds) * time.Second
	read.invisible = time.Duration(invisible) * time.Second
	return &read, nil
}

func (read *options) subscriptions() map[string]*rocketmq.FilterExpression {
	filter := rocketmq.NewFilterExpressionWithType(read.where, rocketmq.SQL92)
	if read.tags != "" {
		filter = rocketmq.NewFilterExpressionWithType(read.tags, rocketmq.TAG)
	}
	return map[string]*rocketmq.FilterExpression{read.topic: filter}
}
