# Takes amounts from one list, adds the tax, and puts them on another.
while true; do
    amount=$(redis-cli -h "$QUEUE" --raw blpop orders 0 | tail -1)
    redis-cli -h "$QUEUE" rpush invoices $((amount * (100 + TAX) / 100))
done
