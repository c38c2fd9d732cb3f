// Peer: publishes persistent events with deferred confirms, at most 1000 unconfirmed, with amqp091-go.
// Rule: the oldest confirm is awaited when there is no room. SEQUENCED=1 adds the properties that our publisher sends.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"math"
	"math/rand"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const outstanding = 1000

type event struct {
	Company   string  `json:"company"`
	EventType string  `json:"eventType"`
	Price     float64 `json:"price"`
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
	company := os.Getenv("COMPANY")
	count := must(strconv.Atoi(os.Getenv("COUNT")))
	sequenced := os.Getenv("SEQUENCED") != ""
	source := fmt.Sprintf("%012x", rand.Uint64()>>16)

	connection := must(amqp.Dial(os.Getenv("RABBITMQ_URL")))
	defer connection.Close()
	channel := must(connection.Channel())
	must(channel.QueueDeclare(company, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}))
	check(channel.Confirm(false))

	var window [outstanding]*amqp.DeferredConfirmation
	await := func(confirm *amqp.DeferredConfirmation) {
		if confirm != nil && !confirm.Wait() {
			log.Fatal("the broker refused an event")
		}
	}
	start := time.Now()
	for number := range count {
		slot := &window[number%outstanding]
		await(*slot)
		body := must(json.Marshal(event{company, [...]string{"buy", "sell"}[rand.Intn(2)], math.Round(rand.Float64()*50000+5000) / 100}))
		message := amqp.Publishing{ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: body}
		if sequenced {
			message.MessageId = fmt.Sprintf("%s#%d", source, number)
			message.Timestamp = time.Unix(time.Now().UnixMilli(), 0)
		}
		*slot = must(channel.PublishWithDeferredConfirm("", company, false, false, message))
	}
	for _, confirm := range window {
		await(confirm)
	}
	log.Printf("confirmed=%d seconds=%.3f", count, time.Since(start).Seconds())
}
