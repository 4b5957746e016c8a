package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-clients/golang/v5"
)

const delay = 3 * time.Second

// pending sends messages that nobody is to see at once: see ../README.md.
func pending(read *options) error {
	var mutex sync.Mutex
	checked := map[int]bool{}
	check := func(half *rocketmq.MessageView) rocketmq.TransactionResolution {
		mutex.Lock()
		defer mutex.Unlock()
		if isWrong(half) {
			return rocketmq.UNKNOWN
		}
		n := number(half)
		checked[n] = true
		if n%2 == 0 {
			return rocketmq.COMMIT
		}
		return rocketmq.ROLLBACK
	}
	producer, err := rocketmq.NewProducer(read.config(),
		rocketmq.WithTopics(read.topic),
		rocketmq.WithTransactionChecker(&rocketmq.TransactionChecker{Check: check}),
	)
	if err != nil {
		return err
	}
	if err := producer.Start(); err != nil {
		return err
	}
	end := time.Now().Add(read.seconds)
	recalled := 0
	for n := range read.count {
		isRecalled, err := sendPending(producer, read.topic, n)
		if err != nil {
			return fmt.Errorf("message %d: %w", n, err)
		}
		if isRecalled {
			recalled++
		}
	}
	isComplete := func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		return len(checked) == read.count/5
	}
	for !isComplete() {
		if time.Now().After(end) {
			return fmt.Errorf("asked about %v alone", checked)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// The answers go out behind the questions.
	time.Sleep(time.Second)
	if err := producer.GracefulStop(); err != nil {
		return err
	}
	var failures errors
	return print(failures.report(map[string]any{"published": read.count, "recalled": recalled}))
}

// sendPending sends a message, and returns whether it was recalled.
func sendPending(producer rocketmq.Producer, topic string, n int) (bool, error) {
	sent := message(topic, n, 0, 0)
	kind := n % 5
	if kind < 2 {
		sent.SetDelayTimestamp(time.Now().Add(delay))
		receipts, err := producer.Send(context.Background(), sent)
		if err != nil || kind == 0 {
			return false, err
		}
		_, err = producer.Recall(context.Background(), topic, receipts[0].RecallHandle)
		return true, err
	}
	transaction := producer.BeginTransaction()
	if _, err := producer.SendWithTransaction(context.Background(), sent, transaction); err != nil {
		return false, err
	}
	switch kind {
	case 2:
		return false, transaction.Commit()
	case 3:
		return false, transaction.RollBack()
	}
	return false, nil
}
