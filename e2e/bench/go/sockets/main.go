// The load of the page: opens SOCKETS WebSockets to URL at once, inserts windows into the database, and reads every frame.
// Rule: the time of an insert and the times of its frames are of one clock, this process's; a frame that shows a newer window of the company shows the insert too.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
)

const (
	// So many sockets, evenly among all, look into their frames; the others only count them: this process must not be what is measured.
	observers = 50
	warmUp    = 2 * time.Second
	// Inserts that no frame has shown after so long count as unseen, and with the time since.
	patience = 3 * time.Second
)

type insert struct {
	id string
	at time.Time
}

// The inserts of a company, oldest first.
type history struct {
	sync.RWMutex
	inserts []insert
}

func (history *history) from(index int) []insert {
	history.RLock()
	defer history.RUnlock()
	return history.inserts[index:]
}

func (history *history) add(made insert) {
	history.Lock()
	defer history.Unlock()
	history.inserts = append(history.inserts, made)
}

type frame struct {
	Prices []struct {
		ID      string `json:"_id"`
		Company string `json:"company"`
	} `json:"prices"`
}

// What one observer has seen.
type observer struct {
	sync.Mutex
	seen      map[string]int
	latencies []time.Duration
}

var (
	histories              = map[string]*history{}
	frames, octets, broken atomic.Int64
	measuring              atomic.Bool
)

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func number(name string) int { return must(strconv.Atoi(os.Getenv(name))) }

// look notes each insert that this frame is the first to show.
func (observer *observer) look(text []byte, at time.Time) {
	var shown frame
	check(json.Unmarshal(text, &shown))
	observer.Lock()
	defer observer.Unlock()
	for _, window := range shown.Prices {
		made := histories[window.Company]
		if made == nil {
			continue
		}
		for _, insert := range made.from(observer.seen[window.Company]) {
			if insert.id > window.ID {
				break
			}
			observer.latencies = append(observer.latencies, at.Sub(insert.at))
			observer.seen[window.Company]++
		}
	}
}

// unseen gives the time that has passed since each insert that no frame has shown.
func (observer *observer) unseen(now time.Time) (waiting []time.Duration) {
	observer.Lock()
	defer observer.Unlock()
	for company, made := range histories {
		for _, insert := range made.from(observer.seen[company]) {
			waiting = append(waiting, now.Sub(insert.at))
		}
	}
	return waiting
}

func (observer *observer) forget() {
	observer.Lock()
	defer observer.Unlock()
	observer.latencies = nil
}

// read reads a socket to its end. Pings are answered by the library.
func read(socket *websocket.Conn, observer *observer, first func()) {
	var text bytes.Buffer
	for {
		_, reader, err := socket.NextReader()
		if err == nil {
			text.Reset()
			if observer == nil {
				var size int64
				size, err = io.Copy(io.Discard, reader)
				octets.Add(size)
			} else {
				_, err = text.ReadFrom(reader)
				octets.Add(int64(text.Len()))
			}
		}
		if err != nil {
			if broken.Add(1) == 1 {
				log.Printf("a socket broke: %v", err)
			}
			return
		}
		frames.Add(1)
		if observer != nil {
			observer.look(text.Bytes(), time.Now())
		}
		if first != nil {
			first()
			first = nil
		}
	}
}

// open opens one socket. Who finds no room or is not heard tries again, as browsers do.
func open(dialer *websocket.Dialer, retries *atomic.Int64) *websocket.Conn {
	for {
		socket, _, err := dialer.Dial(os.Getenv("URL"), nil)
		if err == nil {
			return socket
		}
		if retries.Add(1) > 20_000 {
			log.Fatalf("too many failures to connect, the last: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func window(company string, number int64) bson.D {
	now := time.Now()
	price := func() float64 { return float64(rand.Intn(50000)+5000) / 100 }
	return bson.D{
		{Key: "_id", Value: bson.NewObjectID()}, {Key: "company", Value: company}, {Key: "avgPrice", Value: price()},
		{Key: "window", Value: number}, {Key: "count", Value: int64(1000)}, {Key: "min", Value: price()}, {Key: "max", Value: price()},
		{Key: "open", Value: price()}, {Key: "close", Value: price()}, {Key: "buys", Value: int64(500)}, {Key: "sells", Value: int64(500)},
		{Key: "firstAt", Value: now.Add(-2 * time.Second)}, {Key: "lastAt", Value: now}, {Key: "writer", Value: "e2e-bench-sockets"},
	}
}

// move inserts a window of one company after the other, so many milliseconds apart, more or less.
func move(stocks *mongo.Collection, names []string, milliseconds int, until time.Time) {
	// Numbers that no window before has: there may be a unique index.
	base := time.Now().UnixMicro()
	for count := int64(0); time.Now().Before(until); count++ {
		time.Sleep(time.Duration((0.5 + rand.Float64()) * float64(milliseconds) * float64(time.Millisecond)))
		company := names[count%int64(len(names))]
		document := window(company, base+count)
		histories[company].add(insert{document[0].Value.(bson.ObjectID).Hex(), time.Now()})
		must(stocks.InsertOne(context.Background(), document))
	}
}

func percentile(ordered []time.Duration, percent float64) float64 {
	index := min(len(ordered)-1, int(float64(len(ordered))*percent/100))
	return float64(ordered[index].Microseconds()) / 1000
}

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
	count, seconds := number("SOCKETS"), number("SECONDS")
	var names []string
	for index := range number("COMPANIES") {
		name := fmt.Sprintf("C%03d", index)
		names = append(names, name)
		histories[name] = &history{}
	}
	concern := writeconcern.Majority()
	client := must(mongo.Connect(options.Client().ApplyURI(os.Getenv("MONGODB_URL")).SetWriteConcern(concern)))
	stocks := client.Database(os.Getenv("MONGODB_DB")).Collection(os.Getenv("MONGODB_COLLECTION"))
	check(client.Ping(context.Background(), nil))

	dialer := &websocket.Dialer{ReadBufferSize: 2048, WriteBufferSize: 512, WriteBufferPool: &sync.Pool{}, HandshakeTimeout: time.Minute}
	var retries atomic.Int64
	var greeted sync.WaitGroup
	var looking []*observer
	start := time.Now()
	for index := range count {
		var mine *observer
		if count <= observers || index%(count/observers) == 0 {
			mine = &observer{seen: map[string]int{}}
			looking = append(looking, mine)
		}
		greeted.Add(1)
		go func() { read(open(dialer, &retries), mine, greeted.Done) }()
	}
	greeted.Wait()
	fmt.Printf("connected sockets=%d seconds=%.3f retries=%d\n", count, time.Since(start).Seconds(), retries.Load())

	// All at once leave garbage and buffers behind; the server shall be at rest when its memory is looked at.
	time.Sleep(3 * time.Second)
	fmt.Println("rested")
	moving := make(chan struct{})
	go func() {
		move(stocks, names, number("INTERVAL"), time.Now().Add(warmUp+time.Duration(seconds)*time.Second))
		close(moving)
	}()
	time.Sleep(warmUp)
	for _, observer := range looking {
		observer.forget()
	}
	begun, framesBefore, octetsBefore := time.Now(), frames.Load(), octets.Load()
	fmt.Println("measuring")
	time.Sleep(time.Duration(seconds) * time.Second)
	took, sent, size := time.Since(begun).Seconds(), frames.Load()-framesBefore, octets.Load()-octetsBefore
	fmt.Printf("measured frames=%d octets=%d seconds=%.3f broken=%d\n", sent, size, took, broken.Load())
	<-moving
	time.Sleep(patience)
	var latencies []time.Duration
	unseen, now := 0, time.Now()
	for _, observer := range looking {
		waiting := observer.unseen(now)
		unseen += len(waiting)
		observer.Lock()
		latencies = append(append(latencies, observer.latencies...), waiting...)
		observer.Unlock()
	}
	if len(latencies) == 0 {
		log.Fatal("no insert was seen")
	}
	slices.Sort(latencies)
	fmt.Printf("latency samples=%d p50=%.3f p99=%.3f max=%.3f unseen=%.5f\n", len(latencies), percentile(latencies, 50),
		percentile(latencies, 99), percentile(latencies, 100), float64(unseen)/float64(len(latencies)))
	<-ended
}
