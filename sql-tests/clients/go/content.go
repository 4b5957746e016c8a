package main

import (
	"fmt"
	"strconv"

	rocketmq "github.com/apache/rocketmq-clients/golang/v5"
)

var colors = []string{"red", "green", "blue"}

// message returns what message n holds.
func message(topic string, n, lines, liteTopics int) *rocketmq.Message {
	made := &rocketmq.Message{Topic: topic, Body: []byte(body(n))}
	made.SetTag(tag(n))
	made.SetKeys(fmt.Sprintf("key-%d", n))
	made.AddProperty("n", strconv.Itoa(n))
	made.AddProperty("color", colors[n%len(colors)])
	if n%5 != 0 {
		made.AddProperty("price", fmt.Sprintf("%.1f", float64(n)*1.5))
	}
	if lines > 0 {
		made.SetMessageGroup(fmt.Sprintf("line-%d", n%lines))
	}
	if liteTopics > 0 {
		made.SetLiteTopic(liteTopic(n % liteTopics))
	}
	return made
}

func liteTopic(number int) string {
	return fmt.Sprintf("lite-%d", number)
}

func number(received *rocketmq.MessageView) int {
	n, err := strconv.Atoi(received.GetProperties()["n"])
	if err != nil {
		panic(err)
	}
	return n
}

func isWrong(received *rocketmq.MessageView) bool {
	n := number(received)
	keys := received.GetKeys()
	return string(received.GetBody()) != body(n) ||
		received.GetTag() == nil || *received.GetTag() != tag(n) ||
		len(keys) != 1 || keys[0] != fmt.Sprintf("key-%d", n)
}

func body(n int) string {
	return fmt.Sprintf("message %d", n)
}

func tag(n int) string {
	if n < 30 {
		return "low"
	}
	if n%2 == 0 {
		return "even"
	}
	return "odd"
}
