// Peer: averages each 1000 events into one document, with amqp091-go and mongo-driver.
// Rule: a window is acknowledged after its insert is answered. PIPELINED=1 inserts one window while the next is being read.
package main

import (
	"context"
	"encoding/json"
	"log"
	"math"
	"os"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
)

const prefetch = 2000

type event struct {
	Company   string  `json:"company"`
	EventType string  `json:"eventType"`
	Price     float64 `json:"price"`
}

type window struct {
	average float64
	last    amqp.Delivery
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	company := os.Getenv("QUEUE_NAME")
	count := must(strconv.Atoi(os.Getenv("COUNT")))
	size := 1000
	if text := os.Getenv("BATCH_SIZE"); text != "" {
		size = must(strconv.Atoi(text))
	}
	journal := true
	concern := &writeconcern.WriteConcern{W: "majority", Journal: &journal}
	client := must(mongo.Connect(options.Client().ApplyURI(os.Getenv("MONGODB_URL")).SetWriteConcern(concern)))
	check(client.Ping(context.Background(), nil))
	stocks := client.Database(os.Getenv("MONGODB_DB")).Collection(os.Getenv("MONGODB_COLLECTION"))

	connection := must(amqp.Dial(os.Getenv("RABBITMQ_URL")))
	defer connection.Close()
	channel := must(connection.Channel())
	must(channel.QueueDeclare(company, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}))
	check(channel.Qos(prefetch, 0, false))
	deliveries := must(channel.Consume(company, "", false, false, false, false, nil))
	log.Print("consuming")

	// The time of the last event goes into the document only for the measurement of latency.
	store := func(window window) {
		document := bson.D{{Key: "company", Value: company}, {Key: "avgPrice", Value: window.average}}
		if at := window.last.Timestamp; !at.IsZero() {
			document = append(document, bson.E{Key: "lastAt", Value: bson.DateTime(at.Unix())})
		}
		must(stocks.InsertOne(context.Background(), document))
		check(window.last.Ack(true))
	}
	finish := func() {}
	if os.Getenv("PIPELINED") != "" {
		windows, done := make(chan window), make(chan struct{})
		direct := store
		go func() {
			defer close(done)
			for window := range windows {
				direct(window)
			}
		}()
		store = func(window window) { windows <- window }
		finish = func() { close(windows); <-done }
	}

	total := 0.0
	for taken := 1; taken <= count; taken++ {
		delivery, open := <-deliveries
		if !open {
			log.Fatal("the channel is lost")
		}
		var event event
		check(json.Unmarshal(delivery.Body, &event))
		total += event.Price
		if taken%size == 0 {
			store(window{math.Round(total/float64(size)*100) / 100, delivery})
			total = 0
		}
	}
	finish()
}
