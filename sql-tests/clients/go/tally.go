package main

import (
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-clients/golang/v5"
)

const quiet = 2 * time.Second

// A tally is what has been acknowledged and what has been given back, and knows when it is enough.
type tally struct {
	mutex          sync.Mutex
	read           *options
	end, latest    time.Time
	values, failed []int
	distinct       map[int]bool
	failures       map[int]int
	wrong          int
}

func newTally(read *options) *tally {
	now := time.Now()
	return &tally{
		read:     read,
		end:      now.Add(read.seconds),
		latest:   now,
		values:   []int{},
		failed:   []int{},
		distinct: map[int]bool{},
		failures: map[int]int{},
	}
}

// fails tells whether the message is to fail this time, and notes it then.
func (t *tally) fails(received *rocketmq.MessageView) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	n := number(received)
	if t.read.failEvery == 0 || n%t.read.failEvery != 0 || t.failures[n] >= t.read.failTimes {
		return false
	}
	t.failures[n]++
	t.failed = append(t.failed, n)
	t.latest = time.Now()
	return true
}

func (t *tally) add(received *rocketmq.MessageView) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	n := number(received)
	t.values = append(t.values, n)
	t.distinct[n] = true
	if isWrong(received) {
		t.wrong++
	}
	t.latest = time.Now()
}

func (t *tally) enough() bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	now := time.Now()
	complete := len(t.distinct) >= t.read.expect && len(t.failed) >= t.read.expectFailed
	return complete && now.After(t.latest.Add(quiet)) || now.After(t.end)
}

func (t *tally) report(failures *errors) map[string]any {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return failures.report(map[string]any{"values": t.values, "failed": t.failed, "wrong": t.wrong})
}

// errors are calls that failed and were made again.
type errors struct {
	count  int
	latest string
}

// add notes a failure, and waits a little.
func (e *errors) add(err error) {
	e.count++
	e.latest = err.Error()
	time.Sleep(200 * time.Millisecond)
}

func (e *errors) report(more map[string]any) map[string]any {
	more["client"] = "go"
	more["errors"] = e.count
	more["error"] = e.latest
	return more
}
