// The official Go client against Weir. Arguments and output: ../README.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	rocketmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const (
	module         = "github.com/apache/rocketmq-clients/golang/v5"
	receiveMax     = 32
	poll           = time.Second
	givenBackAfter = time.Second
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("no action"))
	}
	read, err := readOptions(os.Args[2:])
	if err != nil {
		fail(err)
	}
	rocketmq.EnableSsl = read.tls != ""
	if err := act(os.Args[1], read); err != nil {
		fail(err)
	}
}

func print(report map[string]any) error {
	line, err := json.Marshal(report)
	if err == nil {
		_, err = fmt.Println(string(line))
	}
	return err
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func act(action string, read *options) error {
	switch action {
	case "version":
		return version()
	case "publish":
		return publish(read)
	case "pending":
		return pending(read)
	case "receive":
		return receive(read)
	case "push":
		return push(read)
	case "lite-push":
		return litePush(read)
	}
	return fmt.Errorf("the client has no action %s", action)
}

func version() error {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return fmt.Errorf("the program was built without modules")
	}
	for _, dependency := range build.Deps {
		if dependency.Path == module {
			return print(map[string]any{"client": "go", "version": strings.TrimPrefix(dependency.Version, "v")})
		}
	}
	return fmt.Errorf("the program was built without %s", module)
}

func (read *options) config() *rocketmq.Config {
	return &rocketmq.Config{
		Endpoint:      read.endpoint,
		ConsumerGroup: read.group,
		Credentials:   &credentials.SessionCredentials{},
	}
}

func publish(read *options) error {
	producer, err := rocketmq.NewProducer(read.config(), rocketmq.WithTopics(read.topic))
	if err != nil {
		return err
	}
	if err := producer.Start(); err != nil {
		return err
	}
	var failures errors
	end := time.Now().Add(read.seconds)
	liteTopics := 0
	if len(read.liteTopics) > 0 {
		liteTopics = read.liteTopics[0]
	}
	for n := read.first; n < read.first+read.count; n++ {
		sent := message(read.topic, n, read.lines, liteTopics)
		err := failures.repeat(end, func() error {
			_, err := producer.Send(context.Background(), sent)
			return err
		})
		if err != nil {
			return err
		}
		time.Sleep(read.pause)
	}
	if err := producer.GracefulStop(); err != nil {
		return err
	}
	return print(failures.report(map[string]any{"published": read.count}))
}

func receive(read *options) error {
	consumer, err := rocketmq.NewSimpleConsumer(read.config(),
		rocketmq.WithSimpleAwaitDuration(poll),
		rocketmq.WithSimpleSubscriptionExpressions(read.subscriptions()),
	)
	if err != nil {
		return err
	}
	if err := consumer.Start(); err != nil {
		return err
	}
	var failures errors
	counted := newTally(read)
	for !counted.enough() {
		messages, err := consumer.Receive(context.Background(), receiveMax, read.invisible)
		if err != nil && !isEmpty(err) {
			failures.add(err)
		}
		for _, received := range messages {
			if err := settle(consumer, counted, &failures, received); err != nil {
				return err
			}
		}
	}
	if err := consumer.GracefulStop(); err != nil {
		return err
	}
	return print(counted.report(&failures))
}

// isEmpty tells whether the error is what the client says when nothing came in time.
func isEmpty(err error) bool {
	status, ok := rocketmq.AsErrRpcStatus(err)
	return ok && v2.Code(status.GetCode()) == v2.Code_MESSAGE_NOT_FOUND
}

func settle(
	consumer rocketmq.SimpleConsumer, counted *tally, failures *errors, received *rocketmq.MessageView,
) error {
	if counted.fails(received) {
		return consumer.ChangeInvisibleDuration(received, givenBackAfter)
	}
	err := failures.repeat(counted.end, func() error { return consumer.Ack(context.Background(), received) })
	if err == nil {
		counted.add(received)
	}
	return err
}

func push(read *options) error {
	counted := newTally(read)
	consumer, err := rocketmq.NewPushConsumer(read.config(),
		rocketmq.WithPushAwaitDuration(poll),
		rocketmq.WithPushSubscriptionExpressions(read.subscriptions()),
		rocketmq.WithPushMessageListener(listener(counted)),
	)
	if err != nil {
		return err
	}
	if err := consumer.Start(); err != nil {
		return err
	}
	return pushWith(counted, consumer)
}

// litePush subscribes to lite topics of a topic.
func litePush(read *options) error {
	counted := newTally(read)
	consumer, err := rocketmq.NewLitePushConsumer(read.config(),
		rocketmq.NewLitePushConsumerConfig(read.topic, read.invisible),
		rocketmq.WithPushAwaitDuration(poll),
		rocketmq.WithPushMessageListener(listener(counted)),
	)
	if err != nil {
		return err
	}
	if err := consumer.Start(); err != nil {
		return err
	}
	for _, number := range read.liteTopics {
		if err := consumer.SubscribeLite(liteTopic(number)); err != nil {
			return err
		}
	}
	return pushWith(counted, consumer)
}

func listener(counted *tally) rocketmq.MessageListener {
	return &rocketmq.FuncMessageListener{
		Consume: func(received *rocketmq.MessageView) rocketmq.ConsumerResult {
			if counted.fails(received) {
				return rocketmq.FAILURE
			}
			counted.add(received)
			return rocketmq.SUCCESS
		},
	}
}

// pushWith ends a push consumer when it is enough.
func pushWith(counted *tally, consumer rocketmq.PushConsumer) error {
	for !counted.enough() {
		time.Sleep(100 * time.Millisecond)
	}
	if err := print(counted.report(&errors{})); err != nil {
		return err
	}
	return consumer.GracefulStop()
}

// repeat makes a call again until it succeeds.
func (e *errors) repeat(end time.Time, call func() error) error {
	for {
		err := call()
		if err == nil || time.Now().After(end) {
			return err
		}
		e.add(err)
	}
}
