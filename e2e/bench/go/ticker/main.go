// Peer: publishes one event at each tick of a time.Ticker and logs it, without confirms, as the system's first publisher did.
// Rule: nothing is made good: a tick that comes while the last event is still being sent is lost.
package main

import (
	"context"
	"encoding/json"
	"log"
	"math"
	"math/rand"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type event struct {
	Company   string  `json:"company"`
	EventType string  `json:"eventType"`
	Price     float64 `json:"price"`
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	company := os.Getenv("COMPANY")
	interval := must(strconv.ParseFloat(os.Getenv("TICKER_INTERVAL"), 64))
	connection := must(amqp.Dial(os.Getenv("RABBITMQ_URL")))
	channel := must(connection.Channel())
	must(channel.QueueDeclare(company, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}))
	for range time.NewTicker(time.Duration(interval * float64(time.Millisecond))).C {
		body := must(json.Marshal(event{company, [...]string{"buy", "sell"}[rand.Intn(2)], math.Round(rand.Float64()*50000+5000) / 100}))
		err := channel.PublishWithContext(context.Background(), "", company, false, false, amqp.Publishing{ContentType: "application/json", Body: body})
		if err != nil {
			log.Fatal(err)
		}
		log.Printf("sent %s", body)
	}
}
